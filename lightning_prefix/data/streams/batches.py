"""Rows of a pool to batches of like lengths, as the ordinary loaders make them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_prefix.data.checks import row_error
from lightning_prefix.data.resume import POOL, group_by_length
from lightning_prefix.data.token_batches import fill

__all__ = ["Batching", "EncodedRow"]


@dataclass(frozen=True)
class EncodedRow:
    """A row of tokens.

    Args:
        values: what the collator gets.
        length: tokens.
    """

    values: dict[str, Any]
    length: int


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How rows become training batches; the arguments are those of `TextDataModule`."""

    batch_size: int
    group_by_length: bool = True
    max_batch_tokens: int | None = None

    @property
    def pool(self) -> int:
        """Rows among which those of like lengths are brought together."""
        return POOL * self.batch_size

    def batches(self, rows: Sequence[EncodedRow], split: str, seed: str) -> list[list[EncodedRow]]:
        """The batches of a pool of shuffled rows, in random order; an incomplete one is the last.

        Args:
            rows: of the pool.
            split: its name, for messages.
            seed: of the order.

        Raises:
            InputError: for a row that is longer than a batch may be.
        """
        lengths = [row.length for row in rows]
        if self.max_batch_tokens is None:
            order = list(range(len(rows)))
            if self.group_by_length:
                order = group_by_length(order, lengths, self.batch_size, seed)
            return [[rows[i] for i in order[n : n + self.batch_size]] for n in range(0, len(order), self.batch_size)]
        for row in rows:
            if row.length > self.max_batch_tokens:
                raise row_error(
                    split,
                    row.values["index"],
                    f"has {row.length} tokens, and max_batch_tokens is {self.max_batch_tokens}",
                    "Raise max_batch_tokens, or lower max_length.",
                )
        batches = fill(range(len(rows)), lengths, self.max_batch_tokens, self.batch_size)
        random.Random(seed).shuffle(batches)  # noqa: S311
        return [[rows[i] for i in batch] for batch in batches]
