"""The seam: attention functions that transformers' models call by name.

`transformers.AttentionInterface` lets every model call a registered function. Ours joins the prefix in front of the
keys and values, widens the mask, and hands on to the function that the model would have called.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from lightning_prefix.backbone.apart import additive_mask, attend_apart, is_apart_faster
from lightning_prefix.backbone.packing import is_packed, kept_apart
from lightning_prefix.backbone.served import Served
from lightning_prefix.backbone.slot import StateSlot, calls_of
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import PrefixStates
from lightning_prefix.prefix.rows import RowStates

Attended = tuple[Tensor, Tensor | None]
"""Output (batch, tokens, heads, value_dim), and the attention weights where the implementation gives them."""

_PREFIX_NAME = "lightning_prefix_"
_RECORDER_NAME = "lightning_prefix_recorder_"
_SHARES_NAME = "lightning_prefix_shares_"
_INNER = ("eager", "sdpa")
_recorded: list["RecordedCall"] = []


class RecordedCall(NamedTuple):
    """What the recorder saw of one attention call.

    Attributes:
        module: the attention module.
        queries: (batch, heads, tokens, key_dim), detached.
        keys: (batch, kv_heads, tokens, key_dim), detached.
        values: (batch, kv_heads, tokens, value_dim), detached.
        is_causal: whether a token sees only those before it.
        scaling: of the scores; None for 1 / sqrt(key_dim).
    """

    module: nn.Module
    queries: Tensor
    keys: Tensor
    values: Tensor
    is_causal: bool
    scaling: float | None


def attention_configs(backbone: nn.Module) -> list[Any]:
    """The configuration objects that name the attention implementation, each once.

    Raises:
        InputError: for an implementation whose masks cannot be widened here.
    """
    configs = {id(m.config): m.config for m in backbone.modules() if hasattr(m, "config")}
    named = [c for c in configs.values() if isinstance(getattr(c, "_attn_implementation", None), str)]
    for config in named:
        _inner_name(config)
    return named


@contextmanager
def serving(slot: StateSlot, served: Served, counts: Sequence[int] | None = None) -> Iterator[None]:
    """Inside, the backbone's attention calls are ours and get these states; outside it is the frozen model.

    Args:
        slot: of the backbone.
        served: the states.
        counts: how often each module was called before; never when None.
    """
    if not (served.is_anything or is_packed()):
        yield
        return
    name, attend = (_PREFIX_NAME, attend_with_prefix) if slot.shares is None else (_SHARES_NAME, _record_share)
    with _named(slot.configs, name, attend), slot.serve(served, counts):
        yield


@contextmanager
def recording_shares(slot: StateSlot) -> Iterator[list[tuple[int, Tensor]]]:
    """Record how much of each query's attention goes to the joined prefix, in the passes that are made inside.

    Inside, the models run their own eager attention, the only one that gives its weights: with whatever they do to
    scores (position biases, soft capping, sinks).

    Yields:
        For each attention call with a joined prefix the number of its site and the share, (batch, heads, queries),
        float32, in the order of the calls.
    """
    before = [config._attn_implementation for config in slot.configs]
    slot.shares = []
    try:
        for config in slot.configs:
            config._attn_implementation_internal = "eager"
        yield slot.shares
    finally:
        slot.shares = None
        for config, name in zip(slot.configs, before, strict=True):
            config._attn_implementation_internal = name


@contextmanager
def recording_states(slot: StateSlot) -> Iterator[list[PrefixStates]]:
    """Record keys and values of the first row of each call made inside, with their graph; serve nothing."""
    with _named(slot.configs, _PREFIX_NAME, attend_with_prefix), slot.recording() as recorded:
        yield recorded


@contextmanager
def recording(backbone: nn.Module) -> Iterator[list[RecordedCall]]:
    """Record the attention calls of the frozen backbone that are made inside, in their order."""
    _recorded.clear()
    try:
        with _named(attention_configs(backbone), _RECORDER_NAME, _record):
            yield (calls := [])
        calls.extend(_recorded)
    finally:
        _recorded.clear()


@contextmanager
def _named(configs: Sequence[Any], prefix: str, function: Callable[..., Attended]) -> Iterator[None]:
    """Inside, the models call this function.

    Only inside, since some model files compare the name (Gemma 4 with "sdpa", GPT-2 with "eager").
    """
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            inner = _inner_name(config)
            _register(prefix + inner, inner, function)
            config._attn_implementation_internal = prefix + inner
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


def attend_with_prefix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    inner: str,
    **kwargs: Any,
) -> Attended:
    """The frozen attention over prefix and text.

    Args:
        module: the attention module that calls.
        query: (batch, heads, tokens, key_dim).
        key: (batch, kv_heads, keys, key_dim): all of the text that is seen, cached or not.
        value: (batch, kv_heads, keys, value_dim).
        attention_mask: additive or boolean, broadcastable to (batch, heads, tokens, keys or more), or None.
        inner: name of the implementation that the model would have used.
        kwargs: what the model passes on (scaling, dropout, position_bias, sinks, ...).
    """
    attend = _inner_function(inner, module)
    calls = calls_of(module)
    if calls is not None and calls.slot.recorded is not None:
        calls.slot.recorded.append(PrefixStates(key[0], value[0]))
    states = None if calls is None else calls.take()
    if calls is None or states is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    rows = calls.slot.served.rows_of(query)
    joined, gated = (None if s is None else s.to(query.device) for s in states)
    added = None if gated is None else _attend_gated(query, gated, rows, kwargs.get("scaling"))
    if joined is None:
        output, weights = attend(module, query, key, value, attention_mask, **kwargs)
    elif rows is None and inner == "sdpa" and _goes_apart(module, query, key, value, attention_mask, joined, kwargs):
        output, weights = _apart(calls.slot, query, key, value, attention_mask, joined, kwargs), None
    else:
        bias, length = kwargs.get("position_bias"), joined.keys.shape[2]
        if bias is not None and bias.shape[3] == key.shape[2]:  # unless `positions: shift` has made room
            kwargs["position_bias"] = calls.slot.once(partial(pad, bias, (length, 0)), (bias,), (length,))
        widen = partial(_widen, attention_mask, query, key, joined, rows)
        attention_mask = calls.slot.once(widen, (attention_mask, joined.is_real), (len(query), length, key.shape[2]))
        key = torch.cat((_per_row(joined.keys, rows, key), key), dim=2)
        value = torch.cat((_per_row(joined.values, rows, value), value), dim=2)
        output, weights = attend(module, query, key, value, attention_mask, **kwargs)
    return output if added is None else output + added, weights


def _goes_apart(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prefix: RowStates,
    kwargs: dict[str, Any],
) -> bool:
    """Whether prefix and text are attended to apart: where that is the same and faster."""
    bias = kwargs.get("position_bias")
    needs_joining = (
        bool(kwargs.get("dropout"))
        or kwargs.get("softcap") is not None
        or (mask is None and query.shape[2] > 1 and _is_causal(module, kwargs))
        or (bias is not None and bias.shape[3] != key.shape[2])  # `positions: shift`: the prefix has a bias too
    )
    return not needs_joining and is_apart_faster(query, key, value, prefix.keys.shape[2])


def _apart(
    slot: StateSlot,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prefix: RowStates,
    kwargs: dict[str, Any],
) -> Tensor:
    bias = kwargs.get("position_bias")
    make = partial(additive_mask, mask, bias, query, key)
    mask = slot.once(make, (mask, bias), (*query.shape[:3], key.shape[2]))
    keys, values = prefix.keys.to(key.dtype), prefix.values.to(key.dtype)
    return attend_apart(query, key, value, mask, keys, values, kwargs.get("scaling"))


def _widen(mask: Tensor | None, query: Tensor, key: Tensor, prefix: RowStates, rows: Tensor | None) -> Tensor | None:
    """The mask with columns for the prefix in front: visible to every query, except where they are padding."""
    length, keys = prefix.keys.shape[2], key.shape[2]
    if prefix.is_real is None or rows is None:
        if mask is None:
            return None
        # a static cache's mask may be longer than its keys
        return pad(mask[..., :keys], (length, 0), value=True if mask.dtype == torch.bool else 0.0)
    is_visible = prefix.is_real[rows][:, None, None]  # (batch, 1, 1, length)
    if mask is None:
        mask = torch.zeros(1, 1, 1, keys, dtype=query.dtype, device=query.device)
    if mask.dtype != torch.bool:
        hidden = torch.finfo(mask.dtype).min
        is_visible = torch.zeros_like(is_visible, dtype=mask.dtype).masked_fill(~is_visible, hidden)
    batch, heads, tokens = query.shape[0], mask.shape[1], mask.shape[2]
    text = mask[..., :keys].expand(batch, -1, -1, -1)
    return torch.cat((is_visible.expand(-1, heads, tokens, -1), text), dim=3)


def _attend_gated(query: Tensor, prefix: RowStates, rows: Tensor | None, scaling: float | None) -> Tensor:
    """tanh(gate) * softmax(query keys^T * scaling) values: (batch, tokens, heads, value_dim)."""
    assert prefix.gates is not None  # noqa: S101  # for the type checker
    batch, heads, tokens, dim = query.shape
    kv_heads = prefix.keys.shape[1]
    # the queries of a group of heads share keys and values; with one prefix for all rows those of all rows do
    packed = query.reshape(batch, kv_heads, -1, dim)
    if rows is None:
        packed = packed.transpose(0, 1).reshape(1, kv_heads, -1, dim)
    keys, values = (_per_row(states, rows, packed) for states in (prefix.keys, prefix.values))
    is_visible = None if prefix.is_real is None or rows is None else prefix.is_real[rows][:, None, None]
    attended = scaled_dot_product_attention(packed, keys, values, attn_mask=is_visible, scale=scaling)
    if rows is None:
        attended = attended.view(kv_heads, batch, -1, values.shape[3]).transpose(0, 1)
    attended = attended.reshape(batch, heads, tokens, -1)
    gates = torch.tanh(prefix.gates if rows is None else prefix.gates[rows]).to(query.dtype)  # (batch or 1, heads)
    return attended.transpose(1, 2) * gates[:, None, :, None]


def _per_row(states: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """(prefixes, kv_heads, length, dim) -> (batch, kv_heads, length, dim), in the backbone's dtype.

    Without a copy when all rows have the same prefix.
    """
    states = states.to(like.dtype)
    return states.expand(like.shape[0], -1, -1, -1) if rows is None else states[rows]


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _record(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    inner: str,
    **kwargs: Any,
) -> Attended:
    causal = _is_causal(module, kwargs)
    _recorded.append(RecordedCall(module, query.detach(), key.detach(), value.detach(), causal, kwargs.get("scaling")))
    return _inner_function(inner, module)(module, query, key, value, attention_mask, **kwargs)


def _record_share(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Attended:
    calls = calls_of(module)
    index = None if calls is None else calls.next_index
    output, weights = attend_with_prefix(module, query, key, *args, **kwargs)
    shares = None if calls is None else calls.slot.shares
    if shares is not None and index is not None and weights is not None:
        length = weights.shape[-1] - key.shape[2]  # of the prefix, which stands in front
        if length:
            shares.append((index, weights[..., :length].float().sum(-1)))
    return output, weights


def _inner_function(inner: str, module: nn.Module) -> Callable[..., Attended]:
    """What the model's own file would have called. A file may bring its own table of functions."""
    for parent in type(module).__mro__:
        file = sys.modules[parent.__module__]
        if hasattr(file, "ALL_ATTENTION_FUNCTIONS"):
            eager = getattr(file, "eager_attention_forward", None)
            return file.ALL_ATTENTION_FUNCTIONS.get_interface(inner, eager)  # type: ignore[no-any-return]
    raise InputError(f"{type(module).__name__} calls attention from a file without transformers' attention table.")


def _register(name: str, inner: str, function: Callable[..., Attended]) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(function, inner=inner))
        AttentionMaskInterface.register(name, partial(_make_mask, ALL_MASK_ATTENTION_FUNCTIONS[inner]))


def _make_mask(
    inner: Callable[..., Tensor | None], *, q_length: int, allow_is_causal_skip: bool = True, **kwargs: Any
) -> Tensor | None:
    """The model's own mask, never left out for a causal kernel, which would not know of the prefix's columns."""
    if is_packed():
        kwargs["mask_function"] = kept_apart(kwargs["mask_function"])
    return inner(q_length=q_length, allow_is_causal_skip=allow_is_causal_skip and q_length == 1, **kwargs)


def _inner_name(config: Any) -> str:
    """The implementation that a configuration names, or that is behind one of our names."""
    inner: str = config._attn_implementation
    for ours in (_RECORDER_NAME, _SHARES_NAME, _PREFIX_NAME):
        inner = inner.removeprefix(ours)
    if inner not in _INNER:
        raise InputError(
            f"the backbone was loaded with attn_implementation={inner!r}; a prefix works with "
            f"{' and '.join(map(repr, _INNER))}. Load it with attn_implementation='sdpa': PyTorch then picks the "
            "fastest kernel that takes a mask."
        )
    return inner
