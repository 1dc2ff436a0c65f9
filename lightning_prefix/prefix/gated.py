"""A prefix behind a gate that starts closed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from lightning_prefix.prefix.base import AttentionPrefixConfig, FrozenModel, Prefix
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class GatedPrefix(Prefix):
    """Attention to the prefix apart from the text's, times tanh(gate) per head (LLaMA-Adapter, Zhang et al. 2023).

    The gate starts at zero: at step 0 the outputs are the frozen model's. Unlike there, keys and values are
    trained directly, without the frozen projections, so it stands at every kind of site.

    Args:
        sites: where the prefix stands.
        start: keys (kv_heads, length, key_dim), values (kv_heads, length, value_dim) and gate (heads,), before the
            tanh, of each site; zeros where there is no gate.
        dropout_probability: in training, on keys and values.
    """

    variant: ClassVar[Literal["gated"]] = "gated"

    def __init__(
        self, sites: Sequence[AttentionSite], start: Sequence[PrefixStates], dropout_probability: float = 0.0
    ) -> None:
        super().__init__(sites, dropout_probability)
        gates = [
            torch.zeros(site.heads, device=state.keys.device) if state.gate is None else state.gate
            for site, state in zip(sites, start, strict=True)
        ]
        self.keys = nn.ParameterList(nn.Parameter(state.keys.detach().float().clone()) for state in start)
        self.values = nn.ParameterList(nn.Parameter(state.values.detach().float().clone()) for state in start)
        self.gates = nn.ParameterList(nn.Parameter(gate.detach().float().clone()) for gate in gates)

    @property
    def length(self) -> int:
        """Positions of the prefix, the most that any site has."""
        return int(max(keys.shape[1] for keys in self.keys))

    def states(self) -> tuple[PrefixStates, ...]:
        """The parameters themselves."""
        return tuple(PrefixStates(*state) for state in zip(self.keys, self.values, self.gates, strict=True))


@dataclass(frozen=True, kw_only=True)
class GatedPrefixConfig(AttentionPrefixConfig):
    """Keys and values with a softmax of their own behind a gate per head that starts at zero.

    At step 0 the model gives the frozen model's outputs. Learning rates: 1e-2 to 3e-2.
    """

    parameters: ClassVar[str] = "length * per_position + heads"

    def build(self, frozen: FrozenModel) -> GatedPrefix:
        """A `GatedPrefix` at its start values, closed unless they come from a gated file."""
        lengths = self.lengths(frozen.sites)
        return GatedPrefix(tuple(lengths), frozen.start(self, lengths), self.dropout)
