"""DeBERTa v2 and v3 through the seam: their attention, written so that it calls transformers' attention interface.

transformers' `DisentangledSelfAttention` has its softmax inside, where no prefix can reach it. The class here has the
same weights and gives the same numbers, but leaves the softmax to the function that the configuration names.

This file needs transformers for its base class: import it only when there is such a backbone.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Attention, DisentangledSelfAttention


def use_attention_interface(backbone: nn.Module) -> None:
    """Let every attention of a frozen DeBERTa v2 call the function named by its configuration."""
    for parent in backbone.modules():
        # a class derived by somebody else has its own forward, which is not ours to replace
        if isinstance(parent, DebertaV2Attention) and type(parent.self) is DisentangledSelfAttention:
            parent.self.__class__ = InterfaceSelfAttention
            parent.self.config = parent.config


def use_own_attention_class(backbone: nn.Module) -> None:
    """Undo `use_attention_interface`."""
    for module in backbone.modules():
        if type(module) is InterfaceSelfAttention:
            del module.config
            module.__class__ = DisentangledSelfAttention


class InterfaceSelfAttention(DisentangledSelfAttention):  # type: ignore[misc]
    """Disentangled attention (He et al. 2021, DeBERTa, eq. 4) whose softmax is another function's.

    Eq. 4 adds three terms: content to content, which is the usual product of queries and keys, content to position,
    and position to content. The last two depend on where a key stands in the text; they are handed on as a
    `position_bias`, in which keys without a place in the text, such as a prefix, can have zeros.
    """

    is_causal = False

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as the frozen class does.

        Args:
            hidden_states: (batch, keys, hidden), what keys and values are made of.
            attention_mask: (batch, 1, queries, keys), nonzero where a query sees a key.
            output_attentions: whether to return the weights.
            query_states: (batch, queries, hidden), if queries are made of something else (enhanced mask decoder).
            relative_pos: (1, queries, keys), distances or their buckets.
            rel_embeddings: (2 * positions, hidden), the embeddings of the distances.

        Returns:
            Output (batch, queries, hidden), and the weights (batch, heads, queries, keys) if asked for.
        """
        heads = self.num_attention_heads
        asking = hidden_states if query_states is None else query_states
        # the frozen class folds the heads into the batch: (batch * heads, tokens, head_dim)
        query = self.transpose_for_scores(self.query_proj(asking), heads)
        key = self.transpose_for_scores(self.key_proj(hidden_states), heads)
        value = self.transpose_for_scores(self.value_proj(hidden_states), heads)

        # sqrt(3 d) in the paper, for the three terms; a configuration may leave some out
        terms = 1 + sum(kind in self.pos_att_type for kind in ("c2p", "p2c"))
        position_bias = None
        if self.relative_attention and terms > 1:
            distances = self.pos_dropout(rel_embeddings)
            position_bias = self.disentangled_attention_bias(query, key, relative_pos, distances, terms)
            position_bias = position_bias.unflatten(0, (-1, heads))

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            *(states.unflatten(0, (-1, heads)) for states in (query, key, value)),
            attention_mask.bool(),
            scaling=(query.shape[-1] * terms) ** -0.5,
            dropout=self.dropout.p if self.training else 0.0,
            position_bias=position_bias,
        )
        return output.flatten(2), weights if output_attentions else None


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """The softmax of the frozen class: softmax(query keys^T * scaling + position_bias) values.

    Args:
        module: the attention module that calls.
        query: (batch, heads, queries, head_dim).
        key: (batch, heads, keys, head_dim).
        value: (batch, heads, keys, head_dim).
        attention_mask: boolean, broadcastable to (batch, heads, queries, keys), or None.
        scaling: factor of the products.
        dropout: rate for the weights.
        position_bias: (batch, heads, queries, keys), already scaled, or None.
        kwargs: what other implementations need.

    Returns:
        Output (batch, queries, heads, head_dim) and weights (batch, heads, queries, keys).
    """
    # in the order and the rounding of the frozen class: keys divided by a root of the model's own dtype
    scores = query @ (key.transpose(-1, -2) / torch.tensor(1 / scaling, dtype=key.dtype))
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        # DeBERTa masks padding as queries too; filled rather than added, such a row is uniform in every dtype
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = drop(scores.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2), weights
