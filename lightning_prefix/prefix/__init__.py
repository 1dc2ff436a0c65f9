"""The trained part: torch only, no knowledge of transformers."""

from lightning_prefix.prefix.base import Prefix, PrefixConfig, StartValues
from lightning_prefix.prefix.flat import FlatPrefix, FlatPrefixConfig
from lightning_prefix.prefix.gated import GatedPrefix, GatedPrefixConfig
from lightning_prefix.prefix.mlp import MLPPrefix, MLPPrefixConfig
from lightning_prefix.prefix.site import AttentionSite, PrefixStates, SiteKind

__all__ = [
    "AttentionSite",
    "FlatPrefix",
    "FlatPrefixConfig",
    "GatedPrefix",
    "GatedPrefixConfig",
    "MLPPrefix",
    "MLPPrefixConfig",
    "Prefix",
    "PrefixConfig",
    "PrefixStates",
    "SiteKind",
    "StartValues",
]
