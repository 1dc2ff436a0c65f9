"""Data: from what the user names to batches of tokens."""

from lightning_prefix.data.base import TextDataModule, data_from
from lightning_prefix.data.classification import TextClassificationDataModule
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.data.regression import TextRegressionDataModule
from lightning_prefix.data.resume import ResumableDataLoader, ResumableSampler

__all__ = [
    "Preprocessing",
    "ResumableDataLoader",
    "ResumableSampler",
    "TextClassificationDataModule",
    "TextDataModule",
    "TextRegressionDataModule",
    "data_from",
]
