"""Which backbones can carry a prefix, without loading weights."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_prefix.backbone.load import load_config
from lightning_prefix.backbone.model import PrefixedModel
from lightning_prefix.backbone.sites import max_positions
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, PrefixConfig

_KINDS = {"encoders": "MASKED_LM", "decoders": "CAUSAL_LM", "encoder-decoders": "SEQ_TO_SEQ_CAUSAL_LM"}
_OWN = "deberta-v2"
"""Reached although its own file has the softmax inside."""
_BUILT = 2_000_000_000
"""Random weights, at most, that are built where a model does not run on the meta device."""


@dataclass(frozen=True)
class Survey:
    """What prefixes find in a backbone.

    Args:
        model_type: of transformers.
        parameters: of the backbone without a head.
        sites: all attention sites, in the order of their calls.
        max_positions: tokens of the context; None where positions are relative.
        trained: numbers that each of the prefixes trains.
        notes: what else is to know, such as layers that get no prefix.
    """

    model_type: str
    parameters: int
    sites: tuple[AttentionSite, ...]
    max_positions: int | None
    trained: tuple[int, ...]
    notes: tuple[str, ...]


def survey(name: str, prefixes: Sequence[PrefixConfig]) -> Survey:
    """What the configuration at a hub id, folder or `asset:NAME` says; no weights are loaded.

    Args:
        name: of the backbone.
        prefixes: to be counted.

    Raises:
        InputError: if there is none, transformers has no such model, or no prefix can reach its attention.
    """
    config = load_config(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.device("meta"):
            model = _make(config)
        parameters = sum(parameter.numel() for parameter in model.base_model.parameters())
        try:
            found = _sites_and_trained(model, prefixes)
        except RuntimeError as error:  # it needs numbers while it runs, such as DeBERTa's relative positions
            if parameters > _BUILT:
                raise InputError(
                    f"{type(model).__name__} cannot run without its {parameters:,} weights ({error}); load it "
                    "and pass it to lp.PrefixedModel, whose `sites` say the same."
                ) from error
            model = _make(config)
            found = _sites_and_trained(model, prefixes)
    notes = {str(warning.message) for warning in caught if "get no prefix" in str(warning.message)}
    return Survey(config.model_type, parameters, found[0], max_positions(model), found[1], tuple(notes))


def _make(config: Any) -> Any:
    from transformers import AutoModel, AutoModelForSeq2SeqLM

    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    try:
        return auto_class.from_config(config, dtype=torch.bfloat16)
    except ValueError as error:
        raise InputError(
            f"transformers has no model of the type {config.model_type!r} without code from elsewhere; `backbones` "
            "lists those it has."
        ) from error


def _sites_and_trained(
    model: nn.Module, prefixes: Sequence[PrefixConfig]
) -> tuple[tuple[AttentionSite, ...], tuple[int, ...]]:
    trained = []
    for prefix in prefixes:
        prefixed = PrefixedModel(model, prefix)
        trained.append(sum(parameter.numel() for parameter in prefixed.prefix.parameters()))
        prefixed.unload()
    return prefixed.all_sites, tuple(trained)


def model_types() -> dict[str, list[str]]:
    """Kind -> model types of the installed transformers whose files call the attention interface."""
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    files = (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")
    callers = {file.parent.name for file in files if "ALL_ATTENTION_FUNCTIONS" in file.read_text(encoding="utf-8")}
    callers.add(model_type_to_module_name(_OWN))
    types = {kind: set(getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")) for kind, name in _KINDS.items()}
    types["encoders"] -= types["encoder-decoders"]
    types["decoders"] -= types["encoder-decoders"] | types["encoders"]
    return {kind: sorted(t for t in found if model_type_to_module_name(t) in callers) for kind, found in types.items()}
