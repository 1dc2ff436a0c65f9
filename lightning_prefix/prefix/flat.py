"""Keys and values trained directly."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_prefix.prefix.base import Prefix, PrefixConfig, StartValues
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class FlatPrefix(Prefix):
    """Keys and values of every site as parameters (Li & Liang 2021, section 4; P-tuning v2, Liu et al. 2022).

    Args:
        sites: where the prefix stands.
        start: keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of each site.
        dropout_probability: in training, on keys and values.
    """

    def __init__(self, sites: Sequence[AttentionSite], start: StartValues, dropout_probability: float = 0.0) -> None:
        super().__init__(sites, dropout_probability)
        self.keys = nn.ParameterList(nn.Parameter(keys.detach().float().clone()) for keys, _ in start)
        self.values = nn.ParameterList(nn.Parameter(values.detach().float().clone()) for _, values in start)

    def states(self) -> tuple[PrefixStates, ...]:
        """The parameters themselves."""
        return tuple(PrefixStates(keys, values) for keys, values in zip(self.keys, self.values, strict=True))


@dataclass(frozen=True)
class FlatPrefixConfig(PrefixConfig):
    """Keys and values trained directly: the smallest and fastest variant.

    Learning rates that the papers found: 5e-3 to 3e-2.
    """

    def build(self, sites: Sequence[AttentionSite], start: StartValues) -> FlatPrefix:
        """A `FlatPrefix` that begins at `start`."""
        return FlatPrefix(sites, start, self.dropout)
