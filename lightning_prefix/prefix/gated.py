"""A prefix with a softmax of its own, which starts as the frozen model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from lightning_prefix.prefix.base import AttentionPrefixConfig, FrozenModel, Prefix
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class GatedPrefix(Prefix):
    """Attention to the prefix apart from the text's, times tanh(gate) per head (LLaMA-Adapter, Zhang et al. 2023).

    The prefix takes nothing from the attention to the text. Unlike in LLaMA-Adapter, keys and values are trained
    directly, without the frozen projections, so it stands at every kind of site.

    Args:
        sites: where the prefix stands.
        start: keys (kv_heads, length, key_dim), values (kv_heads, length, value_dim) and gate (heads,), before the
            tanh, of each site; a closed one (zeros) where there is no gate.
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

    def key_parameters(self) -> list[nn.Parameter]:
        """All keys."""
        return list(self.keys)

    def states(self) -> tuple[PrefixStates, ...]:
        """The parameters themselves."""
        return tuple(PrefixStates(*state) for state in zip(self.keys, self.values, self.gates, strict=True))


@dataclass(frozen=True, kw_only=True)
class GatedPrefixConfig(AttentionPrefixConfig):
    """Keys and values with a softmax of their own, whose output is added to the frozen model's, times a gate per head.

    At step 0 the model gives the frozen model's outputs, so that training begins with all it knows. Learning rates:
    1e-2 to 3e-2; five times as much for the keys, which have to find the queries that they belong to.

    Args:
        zero: what is zero at the start. `values`: gates are open, and values learn from the first step on. `gates`: as
            in LLaMA-Adapter, where nothing but the gates learns at first.
    """

    zero: Literal["values", "gates"] = "values"

    default_learning_rate: ClassVar[float] = 2e-2
    key_rate_factor: ClassVar[float] = 5.0
    parameters: ClassVar[str] = "length * per_position + heads"

    def build(self, frozen: FrozenModel) -> GatedPrefix:
        """A `GatedPrefix` at its start values; one from a file as it is there, closed if it has no gates."""
        lengths = self.lengths(frozen.sites)
        start = frozen.start(self, lengths)
        if self.zero == "values" and self.init != "file":
            start = [
                PrefixStates(
                    state.keys, torch.zeros_like(state.values), torch.ones(site.heads, device=state.keys.device)
                )
                for site, state in zip(lengths, start, strict=True)
            ]
        return GatedPrefix(tuple(lengths), start, self.dropout)
