"""Keys and values produced by a small network, which can be thrown away after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_prefix.errors import InputError
from lightning_prefix.prefix.base import AttentionPrefixConfig, FrozenModel, Prefix
from lightning_prefix.prefix.flat import FlatPrefix
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class MLPPrefix(Prefix):
    """start + MLP(embedding), for all sites at once (Li & Liang 2021, section 4.3).

    The last layer starts at zero, so that training begins exactly at the start values. The network is evaluated
    once per step, whatever the batch. It is kept in checkpoints, so that training resumes; `flatten()` drops it.

    Args:
        sites: where the prefix stands.
        start: keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of each site.
        embedding_dim: size of the trained embedding of one prefix position.
        hidden_dim: size of the hidden layer.
        dropout_probability: in training, on keys and values.
    """

    variant: ClassVar[Literal["flat"]] = "flat"
    start: Tensor

    def __init__(
        self,
        sites: Sequence[AttentionSite],
        start: Sequence[PrefixStates],
        embedding_dim: int,
        hidden_dim: int,
        dropout_probability: float = 0.0,
    ) -> None:
        super().__init__(sites, dropout_probability)
        self.lengths = [state.keys.shape[1] for state in start]
        # one row per position: (length, sum over sites of kv_heads * (key_dim + value_dim)); zeros after the end of
        # the sites that are shorter
        tensors = [tensor.detach().float() for state in start for tensor in (state.keys, state.values)]
        rows = [pad(t.transpose(0, 1).flatten(1), (0, 0, 0, self.length - t.shape[1])) for t in tensors]
        self.register_buffer("start", torch.cat(rows, dim=1))
        self.embedding = nn.Parameter(torch.randn(self.length, embedding_dim))
        last = nn.Linear(hidden_dim, self.start.shape[1])
        self.mlp = nn.Sequential(nn.Linear(embedding_dim, hidden_dim), nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @property
    def length(self) -> int:
        """Positions of the prefix, the most that any site has."""
        return max(self.lengths)

    def states(self) -> tuple[PrefixStates, ...]:
        """The network's output, divided among the sites."""
        rows = self.start + self.mlp(self.embedding)
        dims = [dim for site in self.sites for dim in (site.key_dim, site.value_dim)]
        heads = [site.kv_heads for site in self.sites for _ in range(2)]
        lengths = [length for length in self.lengths for _ in range(2)]
        pieces = rows.split([h * d for h, d in zip(heads, dims, strict=True)], dim=1)
        # (length, kv_heads * dim) -> (kv_heads, length, dim)
        tensors = [
            piece[:length].unflatten(1, (h, d)).transpose(0, 1)
            for piece, length, h, d in zip(pieces, lengths, heads, dims, strict=True)
        ]
        return tuple(PrefixStates(k, v) for k, v in zip(tensors[::2], tensors[1::2], strict=True))

    @torch.no_grad()
    def flatten(self) -> FlatPrefix:
        """The same keys and values, bit for bit, as plain parameters."""
        return FlatPrefix(self.sites, self.states(), self.dropout_probability)


@dataclass(frozen=True, kw_only=True)
class MLPPrefixConfig(AttentionPrefixConfig):
    """Keys and values from an embedding and a two-layer MLP; only the result is stored for use.

    Learning rates that the papers found: 5e-5 to 1e-3, a hundredth of the flat variant's.

    Args:
        embedding_dim: size of the trained embedding of one prefix position, >= 1.
        hidden_dim: size of the hidden layer, >= 1 (Li & Liang: 512 for table-to-text, 800 for summaries).
    """

    embedding_dim: int = 512
    hidden_dim: int = 512

    default_learning_rate: ClassVar[float] = 1e-3
    parameters: ClassVar[str] = (
        "length * embedding_dim + (embedding_dim + 1) * hidden_dim + (hidden_dim + 1) * per_position"
    )

    def check(self) -> None:
        """Refuse sizes below 1 too."""
        super().check()
        if min(self.embedding_dim, self.hidden_dim) < 1:
            raise InputError(
                f"embedding_dim {self.embedding_dim} and hidden_dim {self.hidden_dim} are given; both are >= 1."
            )

    def build(self, frozen: FrozenModel) -> MLPPrefix:
        """An `MLPPrefix` at its start values."""
        lengths = self.lengths(frozen.sites)
        start = frozen.start(self, lengths)
        return MLPPrefix(tuple(lengths), start, self.embedding_dim, self.hidden_dim, self.dropout)
