"""A prefix with a softmax of its own, which starts as the frozen model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_prefix.errors import InputError
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

    The default of the tasks, by first trials with one seed and 24 to 80 steps (validation loss; flat, and this one):
    strings for Marian 0.887 and 0.796, DailyDialog for SmolLM2 3.27 and 3.15, Chinese news for E5 0.568 and 0.495,
    SST-2 for MiniLM 0.386 and 0.377; STS-B, Pearson, 0.67 and 0.79, but 0.57 with `score_deviation: null`.

    Args:
        zero: what is zero at the start. `values`: gates are open, and values learn from the first step on. `gates`: as
            in LLaMA-Adapter, where nothing but the gates learns at first.
        score_deviation: standard deviation, over the positions of the prefix, of their scores for one query at the
            start, > 0: how sharply a query chooses among them. The keys of each head are scaled to it; left as `init`
            has made them when null.
    """

    zero: Literal["values", "gates"] = "values"
    score_deviation: float | None = 3.0

    default_learning_rate: ClassVar[float] = 2e-2
    key_rate_factor: ClassVar[float] = 5.0
    parameters: ClassVar[str] = "length * per_position + heads"

    def build(self, frozen: FrozenModel) -> GatedPrefix:
        """A `GatedPrefix` at its start values; one from a file as it is there, closed if it has no gates."""
        lengths = self.lengths(frozen.sites)
        start = frozen.start(self, lengths)
        if self.init != "file":
            keys = self._scaled(frozen, {site: state.keys for site, state in zip(lengths, start, strict=True)})
            start = [state._replace(keys=own) for state, own in zip(start, keys, strict=True)]
            if self.zero == "values":
                start = [
                    PrefixStates(own, torch.zeros_like(values), torch.ones(site.heads, device=own.device))
                    for site, (own, values, _) in zip(lengths, start, strict=True)
                ]
        return GatedPrefix(tuple(lengths), start, self.dropout)

    def check(self) -> None:
        """Refuse a deviation that is not positive, too."""
        super().check()
        if self.score_deviation is not None and not self.score_deviation > 0:
            raise InputError(f"score_deviation {self.score_deviation} is given; it is > 0 (about 3), or null.")

    def _scaled(self, frozen: FrozenModel, keys: dict[AttentionSite, Tensor]) -> list[Tensor]:
        if self.score_deviation is None:
            return list(keys.values())
        return [
            # equal scores, or a single one, stay as they are
            own * torch.where(now > 0, self.score_deviation / now, 1.0)[:, None, None]
            for own, now in zip(keys.values(), frozen.score_deviations(keys), strict=True)
        ]
