"""k-fold cross-validation: the same task on other rows, and what its numbers are worth."""

from lightning_prefix.cross_validation.folds import Fold, leave_one_out, make_folds
from lightning_prefix.cross_validation.results import CrossValidation
from lightning_prefix.cross_validation.run import cross_validate
from lightning_prefix.cross_validation.statistics import Estimate, estimate

__all__ = ["CrossValidation", "Estimate", "Fold", "cross_validate", "estimate", "leave_one_out", "make_folds"]
