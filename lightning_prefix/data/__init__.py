"""Data: from what the user names to batches of tokens."""

from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.classification import TextClassificationDataModule
from lightning_prefix.data.description import data_from
from lightning_prefix.data.dialogue import DialogueDataModule
from lightning_prefix.data.extractive_qa import ExtractiveQADataModule
from lightning_prefix.data.generation import TextGenerationDataModule
from lightning_prefix.data.generative_qa import GenerativeQADataModule
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.data.regression import TextRegressionDataModule
from lightning_prefix.data.resume import ResumableDataLoader, ResumableSampler
from lightning_prefix.data.token_classification import TokenClassificationDataModule
from lightning_prefix.data.translation import TranslationDataModule

__all__ = [
    "DialogueDataModule",
    "ExtractiveQADataModule",
    "GenerativeQADataModule",
    "Preprocessing",
    "ResumableDataLoader",
    "ResumableSampler",
    "TextClassificationDataModule",
    "TextDataModule",
    "TextGenerationDataModule",
    "TextRegressionDataModule",
    "TokenClassificationDataModule",
    "TranslationDataModule",
    "data_from",
]
