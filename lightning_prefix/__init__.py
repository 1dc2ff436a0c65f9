"""Prefix tuning of frozen transformers in PyTorch Lightning."""

from lightning_prefix.backbone import BackboneOptions, PrefixedModel
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import (
    AttentionSite,
    FlatPrefix,
    FlatPrefixConfig,
    GatedPrefix,
    GatedPrefixConfig,
    MLPPrefix,
    MLPPrefixConfig,
    Prefix,
    PrefixConfig,
)

__version__ = "0.1.0.dev0"
