"""Prefix tuning of frozen transformers in PyTorch Lightning."""

from lightning_prefix import plots
from lightning_prefix.backbone import ActivationCacheOptions, BackboneOptions, PrefixedModel
from lightning_prefix.backbone.hub import push_to_hub
from lightning_prefix.callbacks import PredictionWriter, PrefixCheckpoint
from lightning_prefix.chat import Chat
from lightning_prefix.cross_validation import CrossValidation, cross_validate
from lightning_prefix.data import (
    DialogueDataModule,
    ExtractiveQADataModule,
    GenerativeQADataModule,
    Preprocessing,
    TextClassificationDataModule,
    TextDataModule,
    TextGenerationDataModule,
    TextRegressionDataModule,
    TokenClassificationDataModule,
    TranslationDataModule,
)
from lightning_prefix.ensemble import Ensemble, average_folders, fit_weights
from lightning_prefix.errors import InputError
from lightning_prefix.mixed import MixedPredictor
from lightning_prefix.peft import from_peft, to_peft
from lightning_prefix.plain_cache import to_cache
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
from lightning_prefix.strategy import ShardedBackboneStrategy
from lightning_prefix.tasks import (
    Dialogue,
    ExtractiveQA,
    GenerativeQA,
    PrefixTask,
    TextClassification,
    TextGeneration,
    TextRegression,
    TokenClassification,
    Translation,
)
from lightning_prefix.tasks.results import Classified, Entity, FoundAnswer, FoundSpan, Rated, Tagged, Written
from lightning_prefix.tuning import learning_rate_range_test, tune

__version__ = "0.1.0.dev0"

__all__ = [
    "ActivationCacheOptions",
    "AttentionSite",
    "BackboneOptions",
    "Chat",
    "Classified",
    "CrossValidation",
    "Dialogue",
    "DialogueDataModule",
    "Ensemble",
    "Entity",
    "ExtractiveQA",
    "ExtractiveQADataModule",
    "FlatPrefix",
    "FlatPrefixConfig",
    "FoundAnswer",
    "FoundSpan",
    "GatedPrefix",
    "GatedPrefixConfig",
    "GenerativeQA",
    "GenerativeQADataModule",
    "InputError",
    "MLPPrefix",
    "MLPPrefixConfig",
    "MixedPredictor",
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
    "Rated",
    "ShardedBackboneStrategy",
    "Tagged",
    "TextClassification",
    "TextClassificationDataModule",
    "TextDataModule",
    "TextGeneration",
    "TextGenerationDataModule",
    "TextRegression",
    "TextRegressionDataModule",
    "TokenClassification",
    "TokenClassificationDataModule",
    "Translation",
    "TranslationDataModule",
    "Written",
    "average_folders",
    "average_prefixes",
    "concatenate_prefixes",
    "cross_validate",
    "fit_weights",
    "from_peft",
    "learning_rate_range_test",
    "plots",
    "push_to_hub",
    "to_cache",
    "to_peft",
    "tune",
]
