"""`positions: shift`: the text starts after the prefix, as in PEFT and in Li & Liang's code."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.packing import is_packed
from lightning_prefix.backbone.sites import config_of, max_positions
from lightning_prefix.backbone.slot import StateSlot
from lightning_prefix.errors import InputError

# before and since transformers 5.24
_OFFSETS = ("past_key_values_length", "cache_length")
_CACHES = ("past_key_values", "cache")


def shift_positions(backbone: nn.Module, slot: StateSlot) -> list[Callable[[], None]]:
    """Let the prefixes that `slot` serves shift the positions of the text, in forward and in generation.

    A position table that is told the length of the cache (BERT, BART, OPT and their kin) is told a longer one. Other
    decoders are given `position_ids`. T5's relative bias is computed for the prefix's columns too.

    Returns:
        Functions that undo it.

    Raises:
        InputError: if the model knows none of these.
    """
    limit = max_positions(backbone)
    is_encoder_decoder = config_of(backbone).is_encoder_decoder
    reader: nn.Module = backbone.get_decoder() if is_encoder_decoder else backbone  # type: ignore[operator]
    tables = [module for module in reader.modules() if _offset(module)]
    if tables:
        hook = partial(_shift_table, slot, limit, config_of(backbone).model_type)
        return [table.register_forward_pre_hook(hook, with_kwargs=True).remove for table in tables]
    if is_encoder_decoder:
        biased = [m for m in reader.modules() if getattr(m, "has_relative_attention_bias", False)]
        for module in biased:
            module.compute_bias = partial(_bias_with_prefix, slot, module)  # type: ignore[assignment]
        if biased:
            return [partial(delattr, module, "compute_bias") for module in biased]
    elif "position_ids" in _parameters(backbone):
        hook = partial(_shift_position_ids, slot, limit, config_of(backbone).model_type)
        return [backbone.register_forward_pre_hook(hook, with_kwargs=True).remove]
    raise InputError(
        f"positions='shift' is given, but {type(backbone).__name__} takes no position_ids; use positions='keep'."
    )


def _offset(module: nn.Module) -> str | None:
    """The argument that tells a position table the length of the cache, if it has one."""
    return next((name for name in _OFFSETS if name in _parameters(module)), None)


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _check(shift: int | Tensor, tokens: int, limit: int | None, model_type: str) -> None:
    length = int(shift) if isinstance(shift, int) else int(shift.max())
    if limit is not None and tokens + length > limit:
        raise InputError(
            f"prefix length {length} + {tokens} tokens exceeds the {limit} positions of {model_type} with "
            "positions='shift'; use positions='keep' or shorter texts (data.max_length)."
        )


def _tokens(positions: Tensor) -> int:
    """The longest text of given positions (batch, tokens)."""
    return int(positions.max()) + 1 if is_packed() else positions.shape[-1]


def _one_shift(slot: StateSlot, model_type: str) -> int:
    shifts = set(slot.served.shifts)
    if len(shifts) > 1:
        raise InputError(
            f"rows whose text starts at positions {sorted(shifts)} are in one batch, but {model_type} has one start "
            "per batch; put prefixes with positions='shift' of other lengths into batches of their own."
        )
    return shifts.pop()


def _shift_table(
    slot: StateSlot, limit: int | None, model_type: str, table: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pre-hook of a position table that is told the length of the cache, and perhaps `position_ids`."""
    if not any(slot.served.shifts):
        return args, kwargs
    given = {**dict(zip(_parameters(table), args, strict=False)), **kwargs}
    offset = _offset(table)
    assert offset is not None  # noqa: S101  # else it has no hook
    positions, past = given.get("position_ids"), given.get(offset) or 0
    if positions is not None:
        shift = slot.served.shift_of(positions) if positions.ndim > 1 else _one_shift(slot, model_type)
        _check(shift, _tokens(positions) + int(past), limit, model_type)
        return (), {**given, "position_ids": positions + shift}
    first = next(value for value in given.values() if value is not None)
    tokens = first.shape[1] if isinstance(first, Tensor) else first[1]
    shift = _one_shift(slot, model_type)
    _check(shift, tokens + int(past), limit, model_type)
    return (), {**given, offset: past + shift}


def _shift_position_ids(
    slot: StateSlot, limit: int | None, model_type: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pre-hook of a causal model with the argument `position_ids`."""
    if not any(slot.served.shifts):
        return args, kwargs
    given = {**dict(zip(_parameters(model), args, strict=False)), **kwargs}
    text = given.get("input_ids")
    text = given.get("inputs_embeds") if text is None else text
    if text is None:
        raise InputError("a forward pass needs input_ids or inputs_embeds.")
    positions = given.get("position_ids")
    if positions is None:
        cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
        seen = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(text.shape[1], device=text.device)[None] + seen
    shift = slot.served.shift_of(text)
    _check(shift, _tokens(positions), limit, model_type)
    return (), {**given, "position_ids": positions + shift}


def _bias_with_prefix(
    slot: StateSlot,
    module: nn.Module,
    query_length: int,
    key_length: int,
    device: Any = None,
    past_seen_tokens: Any = 0,
) -> Tensor:
    """T5's relative position bias (1, heads, queries, prefix + keys): the prefix stands before the text."""
    compute = partial(cast("Any", type(module)).compute_bias, module)
    bias: Tensor = compute(query_length, key_length, device=device, past_seen_tokens=past_seen_tokens)
    if not (length := _one_shift(slot, "t5")):
        return bias
    before = compute(query_length, length, device=device, past_seen_tokens=past_seen_tokens + length)
    return torch.cat((before, bias), dim=3)
