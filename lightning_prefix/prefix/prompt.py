"""Trained embeddings at the model's input, read by the frozen model itself."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_prefix.prefix.base import FrozenModel, Prefix, PrefixConfig
from lightning_prefix.prefix.flat import FlatPrefix
from lightning_prefix.prefix.site import PrefixStates


class PromptPrefix(Prefix):
    """Embeddings before the input layer; the frozen model turns them into keys and values (Lester et al. 2021).

    In a causal model this is prompt tuning exactly: the prompt never sees the text, so its keys and values are the
    same for every row and are computed once per step, for one row, whatever the batch. In a bidirectional encoder
    the prompt reads itself but not the text, where Lester et al. let it read both; their decoder's cross-attention
    sees the encoded prompt, and so does this one's.

    Args:
        frozen: the model that reads the embeddings.
        embeddings: (length, embedding_dim), the start.
        dropout_probability: in training, on keys and values.
    """

    variant: ClassVar[Literal["prompt"]] = "prompt"

    def __init__(self, frozen: FrozenModel, embeddings: Tensor, dropout_probability: float = 0.0) -> None:
        super().__init__(frozen.sites, dropout_probability)
        self._frozen = frozen
        self.embeddings = nn.Parameter(embeddings.detach().float().clone())

    @property
    def length(self) -> int:
        """Positions of the prompt."""
        return self.embeddings.shape[0]

    def states(self) -> tuple[PrefixStates, ...]:
        """The frozen model's keys and values of the embeddings."""
        return self._frozen.encode(self.embeddings)

    @torch.no_grad()
    def flatten(self) -> FlatPrefix:
        """The same keys and values, bit for bit, as plain parameters: larger, and the model need not be run."""
        return FlatPrefix(self.sites, self.states(), self.dropout_probability)


@dataclass(frozen=True, kw_only=True)
class PromptPrefixConfig(PrefixConfig):
    """Trained input embeddings, from which the frozen model computes the keys and values: the smallest file.

    Lester et al. used a learning rate of 0.3 with Adafactor; with AdamW 1e-2 to 1e-1 are usual.

    Args:
        length: positions of the prompt, >= 1.
        init: start values. `random`: the embeddings of random vocabulary tokens. `text`: those of `init_text`.
            `zero`: zeros. `file`: those of the prompt in `init_file`.
        dropout: probability of zeroing elements of the keys and values in training, in [0, 1).
    """

    length: int = 16
    init: Literal["random", "text", "zero", "file"] = "random"
    dropout: float = 0.0

    parameters: ClassVar[str] = "length * input_dim"

    def build(self, frozen: FrozenModel) -> PromptPrefix:
        """A `PromptPrefix` at its start values."""
        return PromptPrefix(frozen, frozen.start_embeddings(self, self.length), self.dropout)
