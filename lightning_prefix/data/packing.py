"""Several short examples in one row of a decoder, so that next to nothing is padded."""

import heapq
import itertools
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from lightning_prefix.data.collate import NO_LABEL, Collator, IndexedRows
from lightning_prefix.data.resume import ResumableSampler
from lightning_prefix.errors import InputError

__all__ = ["PackedBatchSampler", "PackedRows", "PackingCollator"]

_POOL = 50 * 32
"""Examples among which those are looked for that fill a row; more would be less random."""
_TRIES = 20


class PackedRows(Dataset[list[list[dict[str, Any]]]]):
    """Examples by the numbers of those that share a row: one list of them for each row of a batch.

    Args:
        examples: by their number.
    """

    def __init__(self, examples: IndexedRows) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: list[list[int]]) -> list[list[dict[str, Any]]]:
        examples = iter(self.examples[[example for row in index for example in row]])
        return [list(itertools.islice(examples, len(row))) for row in index]


class PackingCollator:
    """Makes a batch of lists of examples, one list a row.

    Args:
        padding: as in `Collator`.

    Example:
        >>> examples = [{"input_ids": [5, 6], "labels": [-100, 6], "index": 3}]
        >>> examples.append({"input_ids": [7, 8], "labels": [7, 8], "index": 0})
        >>> batch = PackingCollator({})([examples])
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 7, 8]], [[-100, 6, -100, 8]])
        >>> batch["sequence_ids"].tolist(), batch["index"].tolist()
        ([[1, 1, 2, 2]], [3, 0])
    """

    def __init__(self, padding: dict[str, int]) -> None:
        self.padding = padding

    def __call__(self, rows: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """Join and pad.

        Args:
            rows: examples with `input_ids`, perhaps `labels` and more lists of one number a token, and "index".

        Returns:
            `input_ids` and its likes, long (rows, tokens), but no mask; `sequence_ids`, long (rows, tokens): 1, 2, ...
            for the examples of a row, 0 for padding; `labels` with -100 at the first token of each example, which
            nothing comes before; `index`, long (examples,).
        """
        names = [name for name in rows[0][0] if name not in ("index", "attention_mask")]
        joined = []
        for examples in rows:
            row = {name: [*itertools.chain.from_iterable(example[name] for example in examples)] for name in names}
            lengths = [len(example["input_ids"]) for example in examples]
            row["sequence_ids"] = [number for number, length in enumerate(lengths, 1) for _ in range(length)]
            if "labels" in row:
                for first in itertools.accumulate(lengths[:-1], initial=0):
                    row["labels"][first] = NO_LABEL
            joined.append(row)
        index = torch.tensor([example["index"] for examples in rows for example in examples])
        return {**Collator(self.padding)(joined), "index": index}


class PackedBatchSampler(ResumableSampler):
    """Yields one batch at a time, as lists of example numbers, one list a row; a function of seed and epoch alone.

    Every example comes once per epoch. All epochs, and all ranks, have the same number of batches: where fewer rows
    would do, the ones with most examples are halved; where there are fewer examples than batches, some come twice.

    Args:
        dataset: of examples.
        lengths: tokens of each example.
        max_tokens: of a row; those of the longest example when None.
        batch_size: rows of a batch, at most.
        ranks: processes that share the batches.
        rank: of this one.
        seed: of the order.

    Raises:
        InputError: if there are examples longer than a row.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        lengths: Sequence[int],
        max_tokens: int | None,
        batch_size: int,
        ranks: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=ranks, rank=rank, shuffle=True, seed=seed)
        longest = max(lengths)
        self.max_tokens = longest if max_tokens is None else max_tokens
        if longest > self.max_tokens:
            too_long = sum(length > self.max_tokens for length in lengths)
            raise InputError(
                f"packed_length {max_tokens} is given, but {too_long} of {len(lengths)} train rows are longer, the "
                f"longest {longest} tokens; use packed_length >= {longest}, or a smaller max_length."
            )
        self.example_lengths = lengths
        # other pools may need a row more, and all epochs must have the same number of batches
        rows = len(self._pack(0, 0)) + (len(lengths) - 1) // _POOL
        self.count = -(-rows // (batch_size * ranks)) * ranks
        self.rows = max(rows, self.count)

    def __len__(self) -> int:
        return self.count // self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        batches = self.batches(self.epoch)[self.rank :: self.num_replicas]
        return itertools.islice(batches, self.skipped, None)

    def batches(self, epoch: int) -> list[list[list[int]]]:
        """Those of all ranks; they have as many rows, or one more."""
        tries = (self._pack(epoch, attempt) for attempt in range(_TRIES))
        rows = next((packed for packed in tries if len(packed) <= self.rows), None) or self._pack(0, 0)
        rows = _halved(rows, self.rows)
        random.Random(f"{self.seed} {epoch}").shuffle(rows)  # noqa: S311
        return [rows[batch :: self.count] for batch in range(self.count)]

    def _pack(self, epoch: int, attempt: int) -> list[list[int]]:
        """Best fit decreasing, within pools of shuffled examples: a long one first, then what fits beside it."""
        examples = list(range(len(self.example_lengths)))
        random.Random(f"{self.seed} {epoch} {attempt}").shuffle(examples)  # noqa: S311
        rows: list[list[int]] = []
        for start in range(0, len(examples), _POOL):
            pool = sorted(examples[start : start + _POOL], key=self.example_lengths.__getitem__, reverse=True)
            rooms: list[tuple[int, int]] = []  # free tokens of each row, and its place
            for example in pool:
                length = self.example_lengths[example]
                fitting = bisect_left(rooms, (length, -1))
                room, place = rooms.pop(fitting) if fitting < len(rooms) else (self.max_tokens, len(rows))
                if place == len(rows):
                    rows.append([])
                rows[place].append(example)
                insort(rooms, (room - length, place))
        return rows


def _halved(rows: list[list[int]], count: int) -> list[list[int]]:
    """So many rows, of which those with most examples were halved, or come twice where they have one."""
    heap = [(-len(row), place, row) for place, row in enumerate(rows)]
    heapq.heapify(heap)
    while len(heap) < count:
        _, place, largest = heapq.heappop(heap)
        half = len(largest) // 2
        for number, part in ((place, largest[:half] or largest), (len(heap) + count, largest[half:])):
            heapq.heappush(heap, (-len(part), number, part))
    return [row for _, _, row in heap]
