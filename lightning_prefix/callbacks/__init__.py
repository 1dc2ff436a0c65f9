"""Callbacks that the command line adds; they work in any Trainer."""

from lightning_prefix.callbacks.checkpoint import PrefixCheckpoint
from lightning_prefix.callbacks.prediction_writer import PredictionWriter

__all__ = ["PredictionWriter", "PrefixCheckpoint"]
