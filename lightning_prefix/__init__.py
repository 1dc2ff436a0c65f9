"""Prefix tuning of frozen transformers in PyTorch Lightning."""

from lightning_prefix.backbone import BackboneOptions, PrefixedModel
from lightning_prefix.callbacks import PredictionWriter, PrefixCheckpoint
from lightning_prefix.data import (
    Preprocessing,
    TextClassificationDataModule,
    TextDataModule,
    TextRegressionDataModule,
)
from lightning_prefix.errors import InputError
from lightning_prefix.peft import from_peft, to_peft
from lightning_prefix.predictor import Predictor
from lightning_prefix.prefix import (
    AttentionSite,
    FlatPrefix,
    FlatPrefixConfig,
    GatedPrefix,
    GatedPrefixConfig,
    MLPPrefix,
    MLPPrefixConfig,
    OutputPrefix,
    OutputPrefixConfig,
    Prefix,
    PrefixConfig,
    PromptPrefix,
    PromptPrefixConfig,
    average_prefixes,
    concatenate_prefixes,
)
from lightning_prefix.tasks import PrefixTask, TextClassification, TextRegression

__version__ = "0.1.0.dev0"

__all__ = [
    "AttentionSite",
    "BackboneOptions",
    "FlatPrefix",
    "FlatPrefixConfig",
    "GatedPrefix",
    "GatedPrefixConfig",
    "InputError",
    "MLPPrefix",
    "MLPPrefixConfig",
    "OutputPrefix",
    "OutputPrefixConfig",
    "PredictionWriter",
    "Predictor",
    "Prefix",
    "PrefixCheckpoint",
    "PrefixConfig",
    "PrefixTask",
    "PrefixedModel",
    "Preprocessing",
    "PromptPrefix",
    "PromptPrefixConfig",
    "TextClassification",
    "TextClassificationDataModule",
    "TextDataModule",
    "TextRegression",
    "TextRegressionDataModule",
    "average_prefixes",
    "concatenate_prefixes",
    "from_peft",
    "to_peft",
]
