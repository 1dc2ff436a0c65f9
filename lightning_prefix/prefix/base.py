"""What all prefix variants share: their options and their interface."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import jsonargparse
from torch import Tensor, nn
from torch.nn.functional import dropout

from lightning_prefix.errors import InputError
from lightning_prefix.prefix.precision import Float32Module
from lightning_prefix.prefix.site import AttentionSite, PrefixStates, SiteKind

StartValues = Sequence[tuple[Tensor, Tensor]]
"""Keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of each site, in order."""


class FrozenModel(Protocol):
    """What a prefix may ask of the model that it is built for.

    Attributes:
        sites: all attention sites, in the order of their calls.
        embedding_dim: size of an input embedding.
    """

    sites: tuple[AttentionSite, ...]
    embedding_dim: int

    @property
    def hidden(self) -> int:
        """Size of the last hidden state."""

    def start(self, config: "PrefixConfig", lengths: dict[AttentionSite, int]) -> list[PrefixStates]:
        """Keys and values (and gates, from a file that has them) of these sites, as `config.init` says."""

    def score_deviations(self, keys: dict[AttentionSite, Tensor]) -> list[Tensor]:
        """(kv_heads,) of each site: how far the scores of these keys, for one query of the model, lie apart."""

    def start_embeddings(self, config: "PrefixConfig", length: int) -> Tensor:
        """(length, embedding_dim), as `config.init` says."""

    def start_output(self, config: "PrefixConfig") -> tuple[Tensor, Tensor]:
        """Scale and shift (hidden) of the last hidden state, as `config.init` says."""

    def encode(self, embeddings: Tensor) -> tuple[PrefixStates, ...]:
        """Keys and values of all sites when the model reads (length, embedding_dim) alone; differentiable."""


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(ABC):
    """Options that every prefix variant has.

    Args:
        init: start values.
        init_text: the text for `init: text`, repeated or cut to the length. Tasks have a default.
        init_file: the folder for `init: file`, written by `save_pretrained` from the same backbone.
    """

    init: str = "random"
    init_text: str | None = None
    init_file: str | None = None

    default_learning_rate: ClassVar[float] = 1e-2
    """Per optimizer step with AdamW, where the user gives none."""
    key_rate_factor: ClassVar[float] = 1.0
    """Learning rate of the keys over that of the rest, where the user gives none."""
    parameters: ClassVar[str]
    """How many numbers are trained: a formula of the options and, of the backbone, `input_dim` (of an embedding),
    `output_dim` (of the last hidden state), `heads` and `per_position`, kv_heads * (key_dim + value_dim), both summed
    over the sites."""

    @abstractmethod
    def build(self, frozen: FrozenModel) -> "Prefix":
        """The trained module for this model, at its start values."""

    def check(self) -> None:
        """Refuse options that no backbone could fulfil.

        Raises:
            InputError: if a number is out of its range, or two options contradict each other.
        """
        for name, value in (("text", self.init_text), ("file", self.init_file)):
            if value and self.init != name:
                raise InputError(f"init_{name} {value!r} is given with init={self.init!r}; it needs init={name!r}.")
        if self.init == "file" and not self.init_file:
            raise InputError("init='file' is given without init_file; give a folder that save_pretrained wrote.")
        length, probability = getattr(self, "length", 1), getattr(self, "dropout", 0.0)
        lengths = list(length.values()) if isinstance(length, dict) else length
        lengths = lengths if isinstance(lengths, list) else [lengths]
        if not any(lengths) or min(lengths) < 0:
            raise InputError(
                f"prefix length {length} is given; it is a number of positions >= 1 (papers use 5 to 200). "
                "For the frozen model without a prefix use `PrefixedModel.disabled()`."
            )
        if not 0 <= probability < 1:
            raise InputError(f"prefix dropout {probability} is given; it is a probability in [0, 1).")


@dataclass(frozen=True, kw_only=True)
class AttentionPrefixConfig(PrefixConfig):
    """Options of the variants that hold keys and values.

    Args:
        length: positions of the prefix at every attention site, >= 1. A list has one length per layer; a dictionary
            one per kind or site, such as `{encoder: 20, decoder: 10, decoder.0: 5}`. No prefix where it is 0.
        init: start values. `random`: normal, with the mean and standard deviation of the frozen model's own
            keys and values at each site and head. `text`: the frozen model's keys and values of `init_text`.
            `zero`: zeros; not the frozen model, since zero keys still take a share of the attention.
            `file`: those of the prefix in `init_file`.
        layers: all (`null`), the last k of each kind (a number), or these (0-based list).
        sites: kinds of attention that get a prefix: encoder, decoder, cross; all that exist with `null`.
        dropout: probability of zeroing elements of the keys and values in training, in [0, 1).
    """

    length: int | list[int] | dict[str, int] = 16
    init: Literal["random", "text", "zero", "file"] = "random"
    layers: int | list[int] | None = None
    sites: list[SiteKind] | None = None
    dropout: float = 0.0

    def lengths(self, sites: Sequence[AttentionSite]) -> dict[AttentionSite, int]:
        """The chosen ones of the backbone's sites, each with its length.

        Raises:
            InputError: if none is left, or a layer, kind or site does not exist.
        """
        kinds = [kind for kind in ("encoder", "decoder", "cross") if any(s.kind == kind for s in sites)]
        wanted = kinds if self.sites is None else self.sites
        if missing := [kind for kind in wanted if kind not in kinds]:
            raise InputError(f"prefix sites {missing} are asked for; this backbone has {kinds}.")
        depths = {kind: sum(s.kind == kind for s in sites) for kind in kinds}
        if isinstance(self.length, dict) and (unknown := self.length.keys() - {*kinds, *(s.key for s in sites)}):
            raise InputError(
                f"prefix length for {', '.join(sorted(unknown))} is given; this backbone has "
                + ", ".join(f"{kind} (layers 0 to {depth - 1})" for kind, depth in depths.items())
                + "."
            )
        chosen = [s for s in sites if s.kind in wanted and s.layer in self._layers(s.kind, depths[s.kind])]
        lengths = {site: self._length(site, depths[site.kind]) for site in chosen}
        lengths = {site: length for site, length in lengths.items() if length}
        if not lengths:
            raise InputError(
                f"prefix layers {self.layers} and length {self.length} with sites {wanted} leave no attention site; "
                f"this backbone has {', '.join(f'{depth} {kind}' for kind, depth in depths.items())} layers (0-based)."
            )
        return lengths

    def _layers(self, kind: SiteKind, depth: int) -> range | list[int]:
        if self.layers is None:
            return range(depth)
        if isinstance(self.layers, int):
            return range(max(0, depth - self.layers), depth)
        if outside := [layer for layer in self.layers if not 0 <= layer < depth]:
            raise InputError(f"prefix layers {outside} do not exist: the {kind} has layers 0 to {depth - 1}.")
        return self.layers

    def _length(self, site: AttentionSite, depth: int) -> int:
        if isinstance(self.length, int):
            return self.length
        if isinstance(self.length, dict):
            return self.length.get(site.key, self.length.get(site.kind, 0))
        if len(self.length) != depth:
            raise InputError(
                f"prefix length {self.length} is given for {len(self.length)} layers, but the {site.kind} has {depth}; "
                "give one length per layer (0 for none), or a dictionary such as "
                f"{{{site.kind}: 10, {site.kind}.0: 5}}."
            )
        return self.length[site.layer]


# A subclass can be chosen by its name in YAML and on the command line. It must stand where the class is defined:
# loading a checkpoint parses its stored class and needs the setting in force.
jsonargparse.set_parsing_settings(subclasses_enabled=[PrefixConfig])


class Prefix(Float32Module, ABC):
    """A trained prefix: parameters in, keys and values per site out; in float32, whatever the backbone's dtype.

    Args:
        sites: where it stands.
        dropout_probability: in training, on keys and values.

    Attributes:
        variant: how it is stored.
        positions: `keep`: the text keeps its positions 0, 1, ...; `shift`: it starts after the prefix.
    """

    variant: ClassVar[Literal["flat", "gated", "prompt", "output"]]
    positions: Literal["keep", "shift"] = "keep"

    def __init__(self, sites: Sequence[AttentionSite], dropout_probability: float = 0.0) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.dropout_probability = dropout_probability

    @property
    @abstractmethod
    def length(self) -> int:
        """Positions of the prefix, the most that any site has."""

    @abstractmethod
    def states(self) -> tuple[PrefixStates, ...]:
        """States of each site in the order of `self.sites`, without dropout."""

    def output(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (hidden) of the last hidden state, or None."""
        return None

    def key_parameters(self) -> list[nn.Parameter]:
        """Those that are keys, which may have a learning rate of their own. Here: none."""
        return []

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
