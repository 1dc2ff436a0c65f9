"""`positions: shift`: the text starts after the prefix."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_prefix.backbone.sites import config_of, max_positions
from lightning_prefix.errors import InputError


def shift_positions(backbone: nn.Module, length: int) -> Callable[[], None]:
    """Add `length` to the positions of every text token, in forward and in generation.

    Returns:
        A function that undoes it.

    Raises:
        InputError: if the model is not a causal one that takes `position_ids`.
    """
    takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters
    is_causal = not config_of(backbone).is_encoder_decoder and max_positions(backbone) is not None
    if not (takes_positions and is_causal):
        raise InputError(
            f"positions='shift' is given, but {type(backbone).__name__} takes no position_ids; use positions='keep'."
        )
    limit = max_positions(backbone)

    def shift(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = list(inspect.signature(backbone.forward).parameters)
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        text = kwargs.get("input_ids")
        text = kwargs.get("inputs_embeds") if text is None else text
        if text is None:
            raise InputError("a forward pass needs input_ids or inputs_embeds.")
        positions = kwargs.get("position_ids")
        if positions is None:
            cache = kwargs.get("past_key_values")
            seen = 0 if cache is None else cache.get_seq_length()
            positions = torch.arange(text.shape[1], device=text.device)[None] + seen
        if limit is not None and text.shape[1] + length > limit:
            raise InputError(
                f"prefix length {length} + {text.shape[1]} tokens exceeds the {limit} positions of "
                f"{config_of(backbone).model_type} with positions='shift'; use positions='keep' or shorter texts "
                "(data.max_length)."
            )
        return (), {**kwargs, "position_ids": positions + length}

    return backbone.register_forward_pre_hook(shift, with_kwargs=True).remove
