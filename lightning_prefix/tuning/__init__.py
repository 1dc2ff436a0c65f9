"""Hyper-parameter search with Optuna, and the learning-rate range test."""

from lightning_prefix.tuning.function import Tuning, tune
from lightning_prefix.tuning.learning_rate import RangeTest, learning_rate_range_test
from lightning_prefix.tuning.pruning import OptunaPruning

__all__ = ["OptunaPruning", "RangeTest", "Tuning", "learning_rate_range_test", "tune"]
