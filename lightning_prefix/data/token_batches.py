"""Training batches that hold as many rows as fit into a number of tokens."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lightning_prefix.data.resume import ResumableSampler
from lightning_prefix.errors import InputError

__all__ = ["TokenBatchSampler", "fill"]

_POOL = 50 * 32
"""Rows among which those of like lengths are brought together; more would be less random."""
_SPARE = 0.02
"""Share of batches more than the first epoch needs: all epochs have the same number, which schedules and resuming count
on, and their rows fall into batches differently."""
_TRIES = 20


class TokenBatchSampler(ResumableSampler):
    """Yields the row numbers of one batch at a time; a function of seed and epoch alone.

    Every row comes once per epoch. All epochs, and all ranks, have the same number of batches: where fewer would do,
    the ones with most rows are halved; where there are fewer rows than that, batches come twice.

    Args:
        dataset: of rows.
        lengths: tokens of each row.
        max_tokens: of a batch, padding included.
        max_rows: of a batch.
        ranks: processes that share the batches.
        rank: of this one.
        seed: of the order.

    Raises:
        InputError: if there are rows longer than a batch.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        lengths: Sequence[int],
        max_tokens: int,
        max_rows: int,
        ranks: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=ranks, rank=rank, shuffle=True, seed=seed)
        if too_long := sum(length > max_tokens for length in lengths):
            raise InputError(
                f"max_batch_tokens {max_tokens} is given, but {too_long} of {len(lengths)} train rows are longer, the "
                f"longest {max(lengths)} tokens; use max_batch_tokens >= {max(lengths)}, or a smaller max_length."
            )
        self.row_lengths, self.max_tokens, self.max_rows = lengths, max_tokens, max_rows
        self.count = -(-int(len(self._fill(0, 0)) * (1 + _SPARE)) // ranks) * ranks

    def __len__(self) -> int:
        return self.count // self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        batches = self.batches(self.epoch)[self.rank :: self.num_replicas]
        return itertools.islice(batches, self.skipped, None)

    def batches(self, epoch: int) -> list[list[int]]:
        """Those of all ranks."""
        tries = (self._fill(epoch, attempt) for attempt in range(_TRIES))
        batches = next((filled for filled in tries if len(filled) <= self.count), None) or self._fill(0, 0)
        while len(batches) < self.count:
            largest = max(batches, key=len)
            if len(largest) > 1:
                batches.remove(largest)
            half = len(largest) // 2
            batches += [largest[:half], largest[half:]] if half else [largest]
        random.Random(f"{self.seed} {epoch}").shuffle(batches)  # noqa: S311
        return batches

    def _fill(self, epoch: int, attempt: int) -> list[list[int]]:
        """Rows of like lengths, within pools of shuffled ones."""
        rows = list(range(len(self.row_lengths)))
        random.Random(f"{self.seed} {epoch} {attempt}").shuffle(rows)  # noqa: S311
        batches: list[list[int]] = []
        for start in range(0, len(rows), _POOL):
            batches += fill(rows[start : start + _POOL], self.row_lengths, self.max_tokens, self.max_rows)
        return batches


def fill(rows: Iterable[int], lengths: Sequence[int], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Batches of rows of like lengths, the shortest first.

    Args:
        rows: their numbers.
        lengths: tokens of each row, by its number.
        max_tokens: of a batch, padding included.
        max_rows: of a batch.

    Example:
        >>> fill([0, 1, 2, 3], lengths=[4, 1, 1, 9], max_tokens=9, max_rows=8)
        [[1, 2], [0], [3]]
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    for row in sorted(rows, key=lengths.__getitem__):
        if batch and (len(batch) == max_rows or (len(batch) + 1) * lengths[row] > max_tokens):
            batches.append(batch)
            batch = []
        batch.append(row)
    return [*batches, batch] if batch else batches
