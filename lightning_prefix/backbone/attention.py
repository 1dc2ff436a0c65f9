"""The seam: attention functions that transformers' models call by name.

`transformers.AttentionInterface` lets every model call a registered function. Ours joins the prefix in front of the
keys and values, widens the mask, and hands on to the function that the model would have called.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from lightning_prefix.backbone.slot import slot_of
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import PrefixStates

Attended = tuple[Tensor, Tensor | None]
"""Output (batch, tokens, heads, value_dim), and the attention weights where the implementation gives them."""

_PREFIX_NAME = "lightning_prefix_"
_RECORDER_NAME = "lightning_prefix_recorder_"
_INNER = ("eager", "sdpa")
_recorded: list["RecordedCall"] = []


class RecordedCall(NamedTuple):
    """What the recorder saw of one attention call.

    Attributes:
        module: the attention module.
        query_shape: (batch, heads, tokens, key_dim).
        keys: (batch, kv_heads, tokens, key_dim), detached.
        values: (batch, kv_heads, tokens, value_dim), detached.
        is_causal: whether a token sees only those before it.
    """

    module: nn.Module
    query_shape: torch.Size
    keys: Tensor
    values: Tensor
    is_causal: bool


def use_prefix_attention(backbone: nn.Module) -> None:
    """Let every attention call of the backbone go through `attend_with_prefix`.

    Raises:
        InputError: for an implementation whose masks cannot be widened here.
    """
    for config, name in _implementations(backbone):
        inner = _inner_name(name)
        _register(_PREFIX_NAME + inner, inner, attend_with_prefix)
        config._attn_implementation_internal = _PREFIX_NAME + inner


def use_own_attention(backbone: nn.Module) -> None:
    """Undo `use_prefix_attention`."""
    for config, name in _implementations(backbone):
        config._attn_implementation_internal = name.removeprefix(_PREFIX_NAME)


@contextmanager
def recording(backbone: nn.Module) -> Iterator[list[RecordedCall]]:
    """Record the attention calls of the frozen backbone that are made inside, in their order."""
    before = _implementations(backbone)
    try:
        for config, name in before:
            inner = _inner_name(name)
            _register(_RECORDER_NAME + inner, inner, _record)
            config._attn_implementation_internal = _RECORDER_NAME + inner
        _recorded.clear()
        yield (calls := [])
        calls.extend(_recorded)
    finally:
        _recorded.clear()
        for config, name in before:
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
    slot = slot_of(module)
    state = None if slot is None else slot.take(module)
    if state is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    if state.gate is not None:
        frozen, weights = attend(module, query, key, value, attention_mask, **kwargs)
        return frozen + _attend_gated(query, state, kwargs.get("scaling")), weights
    if attention_mask is None and inner == "sdpa" and query.shape[2] > 1 and _is_causal(module, kwargs):
        attention_mask = _causal_mask(query)
        # more keys than queries without a mask: the empty end of a static cache
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
    keys, length = key.shape[2], state.keys.shape[1]
    if attention_mask is not None:  # a static cache's mask may be longer than its keys
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = pad(attention_mask[..., :keys], (length, 0), value=visible)
    if (bias := kwargs.get("position_bias")) is not None:
        kwargs["position_bias"] = pad(bias[..., :keys], (length, 0))
    key = torch.cat((_per_row(state.keys, key), key), dim=2)
    value = torch.cat((_per_row(state.values, value), value), dim=2)
    return attend(module, query, key, value, attention_mask, **kwargs)


def _attend_gated(query: Tensor, state: PrefixStates, scaling: float | None) -> Tensor:
    """tanh(gate) * softmax(query keys^T * scaling) values: (batch, tokens, heads, value_dim)."""
    assert state.gate is not None  # noqa: S101  # for the type checker
    groups = query.shape[1] // state.keys.shape[0]
    keys = _per_row(state.keys.repeat_interleave(groups, 0), query)
    values = _per_row(state.values.repeat_interleave(groups, 0), query)
    attended = scaled_dot_product_attention(query, keys, values, scale=scaling)
    return attended.transpose(1, 2) * torch.tanh(state.gate).to(query.dtype)[:, None]


def _per_row(states: Tensor, like: Tensor) -> Tensor:
    """(kv_heads, length, dim) -> (batch, kv_heads, length, dim) without a copy, in the backbone's dtype."""
    return states.to(like.dtype).expand(like.shape[0], -1, -1, -1)


def _causal_mask(query: Tensor) -> Tensor:
    tokens = query.shape[2]
    return torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()[None, None]


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
    _recorded.append(RecordedCall(module, query.shape, key.detach(), value.detach(), causal))
    return _inner_function(inner, module)(module, query, key, value, attention_mask, **kwargs)


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
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(name, partial(function, inner=inner))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[inner])


def _inner_name(name: str) -> str:
    """The implementation behind the name of a configuration."""
    inner = name.removeprefix(_PREFIX_NAME)
    if inner not in _INNER:
        raise InputError(
            f"the backbone was loaded with attn_implementation={inner!r}; a prefix works with "
            f"{' and '.join(map(repr, _INNER))}. Load it with attn_implementation='sdpa': PyTorch then picks the "
            "fastest kernel that takes a mask."
        )
    return inner


def _implementations(backbone: nn.Module) -> list[tuple[Any, str]]:
    """Each configuration object that a module of the backbone reads, with its attention implementation."""
    configs = {id(m.config): m.config for m in backbone.modules() if hasattr(m, "config")}
    named = [(config, getattr(config, "_attn_implementation", None)) for config in configs.values()]
    return [(config, name) for config, name in named if isinstance(name, str)]
