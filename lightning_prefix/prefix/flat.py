"""The plain prefix: one trained key and value per position, head and site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from lightning_prefix.prefix.base import AttentionPrefixConfig, FrozenModel, Prefix
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class FlatPrefix(Prefix):
    """Keys and values of every site as parameters (Li & Liang 2021, section 4; P-tuning v2, Liu et al. 2022).

    Args:
        sites: where the prefix stands.
        start: keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of each site.
        dropout_probability: in training, on keys and values.
    """

    variant: ClassVar[Literal["flat"]] = "flat"

    def __init__(
        self, sites: Sequence[AttentionSite], start: Sequence[PrefixStates], dropout_probability: float = 0.0
    ) -> None:
        super().__init__(sites, dropout_probability)
        self.keys = nn.ParameterList(nn.Parameter(state.keys.detach().float().clone()) for state in start)
        self.values = nn.ParameterList(nn.Parameter(state.values.detach().float().clone()) for state in start)

    @property
    def length(self) -> int:
        """Positions of the prefix, the most that any site has."""
        return int(max(keys.shape[1] for keys in self.keys))

    def key_parameters(self) -> list[nn.Parameter]:
        """All keys."""
        return list(self.keys)

    def states(self) -> tuple[PrefixStates, ...]:
        """The parameters themselves."""
        return tuple(PrefixStates(keys, values) for keys, values in zip(self.keys, self.values, strict=True))


@dataclass(frozen=True, kw_only=True)
class FlatPrefixConfig(AttentionPrefixConfig):
    """Keys and values trained directly: the smallest and fastest variant.

    Learning rates that the papers found: 5e-3 to 3e-2.
    """

    parameters: ClassVar[str] = "length * per_position"

    def build(self, frozen: FrozenModel) -> FlatPrefix:
        """A `FlatPrefix` at its start values."""
        lengths = self.lengths(frozen.sites)
        return FlatPrefix(tuple(lengths), frozen.start(self, lengths), self.dropout)
