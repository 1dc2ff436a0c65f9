"""Attention to prefix and text apart, merged exactly; the prefix is read by all rows at once and never copied.

softmax over both = the two softmaxes, weighted by the sums of their exponentials (log-sum-exp, "lse"):
output = (1 - w) text + w prefix with w = sigmoid(lse_prefix - lse_text). This is how FlashAttention merges blocks (Dao
et al. 2022, section 3.1), and how FlashInfer shares a prefix (Ye et al. 2025). Backward, each part gets the merged
output and lse, as in ring attention (Liu et al. 2023), and its own gradient comes out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LONG = 128
"""Positions from which a prefix is read apart."""
_COPIED = 150_000
"""Numbers of all keys from which copying them in a step of `generate` takes longer than a second attention call."""
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def is_apart_faster(query: Tensor, key: Tensor, value: Tensor, length: int) -> bool:
    """Whether the parts can be attended to apart, and this was measured to be faster than joining them.

    Joining copies all keys and values, which in a step of `generate` is most of the work once there are many of them;
    in training the copies of the prefix for each row are. On other devices than a CPU nothing was measured: they join.

    Args:
        query: (batch, heads, tokens, dim).
        key: (batch, kv_heads, keys, dim), of the text.
        value: (batch, kv_heads, keys, dim).
        length: of the prefix.
    """
    batch, kv_heads, keys, dim = key.shape
    pays = batch * kv_heads * (length + keys) * dim >= _COPIED if query.shape[2] == 1 else length >= _LONG
    fits = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype and dim == value.shape[3]
    return pays and fits and not torch.compiler.is_compiling()


def attend_apart(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor, scale: float | None
) -> Tensor:
    """Attention over prefix and text: (batch, tokens, heads, dim).

    Args:
        query: (batch, heads, tokens, dim).
        key: (batch, kv_heads, keys, dim), of the text.
        value: (batch, kv_heads, keys, dim).
        mask: of `additive_mask`, or None.
        keys: (1, kv_heads, length, dim), the prefix's, in the dtype of the text's.
        values: (1, kv_heads, length, dim).
        scale: of the scores; 1 / sqrt(dim) when None.
    """
    batch, heads, tokens, dim = query.shape
    packed = query.reshape(batch, key.shape[1], -1, dim)  # the queries of a group of heads share keys and values
    inputs = packed, key, value, mask, keys, values, scale
    output: Tensor = _Apart.apply(*inputs) if torch.is_grad_enabled() else _merged(*inputs)[0]  # type: ignore[no-untyped-call]
    return output.reshape(batch, heads, tokens, dim).transpose(1, 2)


def additive_mask(mask: Tensor | None, bias: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Mask and position bias of the text for `attend_apart`: what is added to the scores, in the query's dtype.

    Hidden positions get the lowest finite number: what a kernel calls the lse of a row that is hidden as a whole is
    then very low, not undefined.

    Args:
        mask: additive or boolean, broadcastable to (batch, heads, tokens, keys or more).
        bias: (1, heads, tokens, keys), or None.
        query: (batch, heads, tokens, dim).
        key: (batch, kv_heads, keys, dim).
    """
    if mask is None:
        added = bias
    else:
        mask, lowest = mask[..., : key.shape[2]], torch.finfo(query.dtype).min  # a static cache's is longer
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
        added = (mask if bias is None else mask + bias).clamp(min=lowest)
    if added is None:
        return None
    _, heads, tokens, _ = query.shape
    batch, mask_heads, _, keys = added.shape
    groups = heads // key.shape[1]
    if groups > 1:
        added = added.expand(-1, -1, tokens, -1)
        if mask_heads == 1:
            added = added[:, :, None].expand(-1, -1, groups, -1, -1)
        added = added.reshape(batch, -1 if mask_heads > 1 else 1, groups * tokens, keys)
    return added.to(query.dtype)


class _Apart(torch.autograd.Function):
    """Shapes as in `attend_apart`, packed: query (batch, kv_heads, queries, dim)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output, lse = _merged(*inputs)
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors, output, lse)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, keys, values, output, lse = ctx.saved_tensors
        gradient_1, query_1, output_1, lse_1 = map(_one_row, (gradient, query, output, lse))
        of_query_1, of_keys, of_values = _backward(gradient_1, query_1, keys, values, output_1, lse_1, None, ctx.scale)
        if not any(ctx.needs_input_grad[:3]):  # nothing below has a prefix
            return None, None, None, None, of_keys, of_values, None
        of_query, of_key, of_value = _backward(gradient, query, key, value, output, lse, mask, ctx.scale)
        return of_query + _rows(of_query_1, query), of_key, of_value, None, of_keys, of_values, None


def _merged(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output (batch, kv_heads, queries, dim) and lse (batch, kv_heads, queries) of both parts."""
    text, text_lse = _FLASH(query, key, value, attn_mask=mask, scale=scale)
    prefix, prefix_lse = (_rows(part, query) for part in _FLASH(_one_row(query), keys, values, scale=scale))
    share = torch.sigmoid(prefix_lse - text_lse)[..., None]
    return torch.lerp(text, prefix, share.to(text.dtype)), torch.logaddexp(text_lse, prefix_lse)


def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    scale: float | None,
) -> Sequence[Tensor]:
    """Gradients of query, key and value."""
    inputs = gradient, query, key, value, output, lse, 0.0, False  # no dropout, not causal
    gradients: Sequence[Tensor] = _FLASH_BACKWARD(*inputs, attn_mask=mask, scale=scale)
    return gradients


def _one_row(tensor: Tensor) -> Tensor:
    """(batch, kv_heads, queries, ...) -> (1, kv_heads, batch * queries, ...)."""
    return tensor.transpose(0, 1).flatten(1, 2)[None]


def _rows(tensor: Tensor, like: Tensor) -> Tensor:
    """The way back."""
    return tensor.view(len(tensor[0]), like.shape[0], like.shape[2], *tensor.shape[3:]).transpose(0, 1)
