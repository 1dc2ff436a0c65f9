"""LightningModules: one per kind of task."""

from lightning_prefix.tasks.base import PrefixTask
from lightning_prefix.tasks.classification import TextClassification
from lightning_prefix.tasks.regression import TextRegression

__all__ = ["PrefixTask", "TextClassification", "TextRegression"]
