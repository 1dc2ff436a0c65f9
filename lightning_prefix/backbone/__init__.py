"""The frozen part: the only place that knows transformers' internals."""

from lightning_prefix.backbone.activation_store import ActivationCacheOptions
from lightning_prefix.backbone.load import BackboneOptions, load_backbone, load_config, load_tokenizer
from lightning_prefix.backbone.logits import logits_at
from lightning_prefix.backbone.model import Positions, PrefixedModel
from lightning_prefix.backbone.shelf import sharing_backbone
from lightning_prefix.backbone.sites import max_positions

__all__ = [
    "ActivationCacheOptions",
    "BackboneOptions",
    "Positions",
    "PrefixedModel",
    "load_backbone",
    "load_config",
    "load_tokenizer",
    "logits_at",
    "max_positions",
    "sharing_backbone",
]
