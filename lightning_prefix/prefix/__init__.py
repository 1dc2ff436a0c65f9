"""The trained part: torch only, no knowledge of transformers."""

from lightning_prefix.prefix.base import AttentionPrefixConfig, FrozenModel, Prefix, PrefixConfig
from lightning_prefix.prefix.combine import average_prefixes, concatenate_prefixes
from lightning_prefix.prefix.flat import FlatPrefix, FlatPrefixConfig
from lightning_prefix.prefix.gated import GatedPrefix, GatedPrefixConfig
from lightning_prefix.prefix.mlp import MLPPrefix, MLPPrefixConfig
from lightning_prefix.prefix.output import OutputPrefix, OutputPrefixConfig
from lightning_prefix.prefix.prompt import PromptPrefix, PromptPrefixConfig
from lightning_prefix.prefix.site import AttentionSite, PrefixStates, SiteKind

__all__ = [
    "AttentionPrefixConfig",
    "AttentionSite",
    "FlatPrefix",
    "FlatPrefixConfig",
    "FrozenModel",
    "GatedPrefix",
    "GatedPrefixConfig",
    "MLPPrefix",
    "MLPPrefixConfig",
    "OutputPrefix",
    "OutputPrefixConfig",
    "Prefix",
    "PrefixConfig",
    "PrefixStates",
    "PromptPrefix",
    "PromptPrefixConfig",
    "SiteKind",
    "average_prefixes",
    "concatenate_prefixes",
]
