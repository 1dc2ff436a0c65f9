"""Several trained prefixes that answer together."""

from lightning_prefix.ensemble.ensemble import Ensemble
from lightning_prefix.ensemble.soup import average_folders
from lightning_prefix.ensemble.weights import fit_weights

__all__ = ["Ensemble", "average_folders", "fit_weights"]
