"""Where a prefix can stand, and what stands there."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

SiteKind = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True)
class AttentionSite:
    """One call of attention in one forward pass of the backbone.

    Args:
        name: the module's qualified name in the backbone; a module that is called more than once per forward
            (ALBERT) has one site per call, `name#1`, `name#2`, ...
        kind: `encoder` (bidirectional self-attention), `decoder` (causal self-attention) or `cross`.
        layer: 0-based, counted within the kind in the order of the calls.
        heads: query heads.
        kv_heads: key and value heads (fewer than `heads` in grouped-query attention).
        key_dim: size of one key.
        value_dim: size of one value; differs from `key_dim` in multi-head latent attention.
    """

    name: str
    kind: SiteKind
    layer: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def key(self) -> str:
        """Short name used in files, the same for every model of a family: `decoder.3`."""
        return f"{self.kind}.{self.layer}"


class PrefixStates(NamedTuple):
    """What the attention call of one site receives. There is no batch dimension.

    Attributes:
        keys: (kv_heads, length, key_dim), float; as the attention function sees them, so after any rotation.
        values: (kv_heads, length, value_dim), float.
        gate: (heads,), float, or None. With a gate the prefix has a softmax of its own, and its output, times
            tanh(gate), is added to the frozen model's; without one the prefix is joined in front of the text.
    """

    keys: Tensor
    values: Tensor
    gate: Tensor | None = None
