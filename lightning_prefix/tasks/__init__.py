"""LightningModules: one per kind of task."""

from lightning_prefix.tasks.base import PrefixTask
from lightning_prefix.tasks.classification import TextClassification
from lightning_prefix.tasks.dialogue import Dialogue
from lightning_prefix.tasks.extractive_qa import ExtractiveQA
from lightning_prefix.tasks.generation import TextGeneration
from lightning_prefix.tasks.generative_qa import GenerativeQA
from lightning_prefix.tasks.regression import TextRegression
from lightning_prefix.tasks.token_classification import TokenClassification
from lightning_prefix.tasks.translation import Translation

__all__ = [
    "Dialogue",
    "ExtractiveQA",
    "GenerativeQA",
    "PrefixTask",
    "TextClassification",
    "TextGeneration",
    "TextRegression",
    "TokenClassification",
    "Translation",
]
