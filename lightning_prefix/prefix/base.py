"""What all prefix variants share: their options and their interface."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import jsonargparse
from torch import Tensor, nn
from torch.nn.functional import dropout

from lightning_prefix.errors import InputError
from lightning_prefix.prefix.site import AttentionSite, PrefixStates, SiteKind

StartValues = Sequence[tuple[Tensor, Tensor]]
"""Keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of each site, in order."""


@dataclass(frozen=True)
class PrefixConfig(ABC):
    """Options that every prefix variant has.

    Args:
        length: positions of the prefix at every attention site, >= 1.
        init: start values. `random`: normal, with the mean and standard deviation of the frozen model's own
            keys and values at each site and head. `text`: the frozen model's keys and values of `init_text`.
            `zero`: zeros; not the frozen model, since zero keys still take a share of the attention.
        init_text: text for `init: text`; repeated or cut to `length` tokens. Tasks have a default.
        layers: all (`null`), the last k of each kind (a number), or these (0-based list).
        sites: kinds of attention that get a prefix: encoder, decoder, cross; all that exist with `null`.
        dropout: probability of zeroing elements of the keys and values in training, in [0, 1).
    """

    length: int = 16
    init: Literal["random", "text", "zero"] = "random"
    init_text: str | None = None
    layers: int | list[int] | None = None
    sites: list[SiteKind] | None = None
    dropout: float = 0.0

    default_learning_rate: ClassVar[float] = 1e-2
    """Per optimizer step with AdamW, where the user gives none."""

    @abstractmethod
    def build(self, sites: Sequence[AttentionSite], start: StartValues) -> "Prefix":
        """The trained module for these sites, beginning at these keys and values."""

    def check(self) -> None:
        """Refuse options that no backbone could fulfil.

        Raises:
            InputError: if a number is out of its range.
        """
        if self.length < 1:
            raise InputError(
                f"prefix length {self.length} is given; it is a number of positions >= 1 (papers use 5 to 200). "
                "For the frozen model without a prefix use `PrefixedModel.disabled()`."
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"prefix dropout {self.dropout} is given; it is a probability in [0, 1).")

    def select(self, sites: Sequence[AttentionSite]) -> tuple[AttentionSite, ...]:
        """Those of the backbone's sites that `sites` and `layers` ask for.

        Raises:
            InputError: if none is left, or a layer does not exist.
        """
        kinds = [kind for kind in ("encoder", "decoder", "cross") if any(s.kind == kind for s in sites)]
        wanted = kinds if self.sites is None else self.sites
        if missing := [kind for kind in wanted if kind not in kinds]:
            raise InputError(f"prefix sites {missing} are asked for; this backbone has {kinds}.")
        chosen = tuple(s for s in sites if s.kind in wanted and s.layer in self._layers_of(s.kind, sites))
        if not chosen:
            raise InputError(
                f"prefix layers {self.layers} with sites {wanted} leave no attention site; this backbone has "
                + ", ".join(f"{sum(s.kind == kind for s in sites)} {kind}" for kind in kinds)
                + " layers (0-based)."
            )
        return chosen

    def _layers_of(self, kind: SiteKind, sites: Sequence[AttentionSite]) -> range | list[int]:
        depth = sum(site.kind == kind for site in sites)
        if self.layers is None:
            return range(depth)
        if isinstance(self.layers, int):
            return range(max(0, depth - self.layers), depth)
        if outside := [layer for layer in self.layers if not 0 <= layer < depth]:
            raise InputError(f"prefix layers {outside} do not exist: the {kind} has layers 0 to {depth - 1}.")
        return self.layers


# A subclass can be chosen by its name in YAML and on the command line. It must stand where the class is defined:
# loading a checkpoint parses its stored class and needs the setting in force.
jsonargparse.set_parsing_settings(subclasses_enabled=[PrefixConfig])


class Prefix(nn.Module, ABC):
    """A trained prefix: parameters in, keys and values per site out."""

    def __init__(self, sites: Sequence[AttentionSite], dropout_probability: float = 0.0) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.dropout_probability = dropout_probability

    @abstractmethod
    def states(self) -> tuple[PrefixStates, ...]:
        """States of each site in the order of `self.sites`, without dropout."""

    def flatten(self) -> "Prefix":
        """A prefix with the same states, bit for bit, and no reparameterisation. Here: itself."""
        return self

    def forward(self) -> tuple[PrefixStates, ...]:
        """States of each site in the order of `self.sites`, with dropout in training."""
        states = self.states()
        if not self.training or self.dropout_probability == 0:
            return states
        probability = self.dropout_probability
        return tuple(
            state._replace(keys=dropout(state.keys, probability), values=dropout(state.values, probability))
            for state in states
        )
