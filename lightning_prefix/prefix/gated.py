"""A prefix behind a gate that starts closed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_prefix.prefix.base import Prefix, PrefixConfig, StartValues
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class GatedPrefix(Prefix):
    """Attention to the prefix apart from the text's, times tanh(gate) per head (LLaMA-Adapter, Zhang et al. 2023).

    The gate starts at zero: at step 0 the outputs are the frozen model's. Unlike there, keys and values are
    trained directly, without the frozen projections, so it stands at every kind of site.

    Args:
        sites: where the prefix stands.
        start: keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of each site.
        gates: (heads,) of each site, before the tanh; zeros when None.
        dropout_probability: in training, on keys and values.
    """

    def __init__(
        self,
        sites: Sequence[AttentionSite],
        start: StartValues,
        gates: Sequence[Tensor] | None = None,
        dropout_probability: float = 0.0,
    ) -> None:
        super().__init__(sites, dropout_probability)
        if gates is None:
            gates = [torch.zeros(site.heads, device=keys.device) for site, (keys, _) in zip(sites, start, strict=True)]
        self.keys = nn.ParameterList(nn.Parameter(keys.detach().float().clone()) for keys, _ in start)
        self.values = nn.ParameterList(nn.Parameter(values.detach().float().clone()) for _, values in start)
        self.gates = nn.ParameterList(nn.Parameter(gate.detach().float().clone()) for gate in gates)

    def states(self) -> tuple[PrefixStates, ...]:
        """The parameters themselves."""
        return tuple(PrefixStates(*state) for state in zip(self.keys, self.values, self.gates, strict=True))


@dataclass(frozen=True)
class GatedPrefixConfig(PrefixConfig):
    """Keys and values with a softmax of their own behind a gate per head that starts at zero.

    At step 0 the model gives the frozen model's outputs. Learning rates: 1e-2 to 3e-2.
    """

    def build(self, sites: Sequence[AttentionSite], start: StartValues) -> GatedPrefix:
        """A `GatedPrefix` that begins at `start`, closed."""
        return GatedPrefix(sites, start, dropout_probability=self.dropout)
