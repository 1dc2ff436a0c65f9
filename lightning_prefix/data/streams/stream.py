"""Streams of batches for a `DataLoader`: shared out among processes, tokenised as they come, with places to go on from.

Rows are shuffled within blocks: a block is read, shuffled, and handed out whole before the next one is read. A place in
the middle of an epoch is then three numbers, and to come back to it reads one block anew and tokenises one pool of it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from lightning_prefix.data.encode import as_rows, check_text_columns
from lightning_prefix.data.reading import LABEL, Reading
from lightning_prefix.data.streams.batches import Batching, EncodedRow
from lightning_prefix.data.streams.rows import RecentRows, Row, RowStream
from lightning_prefix.data.tokenize import encode_rows

__all__ = [
    "BEGIN",
    "Counts",
    "EncodedStream",
    "EvaluationItem",
    "EvaluationStream",
    "Place",
    "TrainItem",
    "TrainStream",
    "encoded_stream",
]

Batch = list[dict[str, Any]]
Numbered = list[tuple[int, Row]]

_EVALUATION_POOL = 16
"""Batches among which rows of like lengths are brought together."""


class Place(NamedTuple):
    """Where a share of the rows has come to."""

    rows: int
    """Rows of the share before the block."""
    pool: int
    """Pools of the block before this one."""
    batches: int
    """Batches of the pool that were handed out."""


BEGIN = Place(0, 0, 0)


class Counts(NamedTuple):
    """What became of rows."""

    rows: int = 0
    left_out: int = 0
    cut: int = 0
    encoded: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class TrainItem(NamedTuple):
    """A training batch on its way from the process that made it."""

    batch: Any
    worker: int
    place: Place
    counts: Counts


class EvaluationItem(NamedTuple):
    """Some batches on their way, with the raw rows by number."""

    batches: list[Any]
    raw: dict[int, Row]
    counts: Counts


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedStream:
    """A split whose rows are tokenised as they are read, by the function that the ordinary way has.

    Args:
        rows: raw.
        reading: how they are read.
        function: a top-level function with the first arguments of `encode_rows`.
        more_columns: handed to the function with the texts and labels.
        options: the function's further arguments.
    """

    rows: RowStream
    reading: Reading
    function: Callable[..., dict[str, list[Any]]]
    more_columns: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)
    recent: RecentRows = field(default_factory=RecentRows)
    """Raw rows of the batches that were handed out last, for who wants to see them."""

    @property
    def columns(self) -> list[str]:
        """Those that are read."""
        label = self.reading.label_column
        return [*self.reading.text_columns, *self.more_columns, *([] if label is None else [label])]

    def encode(self, rows: Numbered, split: str | None = None) -> tuple[list[EncodedRow], Counts]:
        """Tokenise some rows.

        Args:
            rows: raw, with their numbers.
            split: what they are called in messages; the name of the split when None.

        Raises:
            InputError: for the first bad row.
        """
        reading = self.reading if split is None else replace(self.reading, split=split)
        columns = {name: [row.get(name) for _, row in rows] for name in self.columns}
        if reading.label_column is not None:
            columns[LABEL] = columns.pop(reading.label_column)
        encoded = self.function(columns, [number for number, _ in rows], reading, **self.options)
        encoded["index"] = encoded.pop("row")
        lengths = encoded["length"] if "length" in encoded else [len(ids) for ids in encoded["input_ids"]]
        counts = Counts(len(rows), len(rows) - len(set(encoded["index"])), sum(encoded["cut"]), len(lengths))
        values = as_rows(encoded, without=("cut", "length"))
        return [EncodedRow(row, length) for row, length in zip(values, lengths, strict=True)], counts


def encoded_stream(
    rows: RowStream,
    reading: Reading,
    *,
    function: Callable[..., dict[str, list[Any]]] = encode_rows,
    more_columns: Sequence[str] = (),
    **options: Any,
) -> EncodedStream:
    """A split to be tokenised as it is read; the arguments are those of `encode_split`.

    Raises:
        InputError: for a column that is not there.
    """
    check_text_columns(rows, reading)
    return EncodedStream(rows=rows, reading=reading, function=function, more_columns=more_columns, options=options)


class TrainStream(IterableDataset[TrainItem]):
    """Training batches of one process, in an order that depends on seed, epoch and the number of shares alone.

    A data set of the hub whose parts can be shared out evenly is read by parts; of others every process reads all
    rows and keeps its share.

    Args:
        rows: to be tokenised.
        batching: how they become batches.
        shuffle_buffer: rows of a block, >= 1.
        seed: of the order.
        rank: of this process.
        ranks: processes that train together.
    """

    def __init__(
        self, rows: EncodedStream, *, batching: Batching, shuffle_buffer: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.rows, self.batching, self.seed = rows, batching, seed
        self.rank, self.ranks = rank, ranks
        self.shuffle_buffer = shuffle_buffer
        self.blocks = max(1, shuffle_buffer // batching.batch_size)  # whole batches, so that only the last is short
        self.epoch = 0
        self.places: Sequence[Place] = [BEGIN]
        """Where each worker begins."""
        self.first_worker = 0
        """The one whose batch comes first."""

    def __iter__(self) -> Iterator[TrainItem]:
        info = get_worker_info()
        workers = 1 if info is None else info.num_workers
        worker = self.first_worker if info is None else (info.id + self.first_worker) % workers
        return self._items(worker, worker * self.ranks + self.rank, workers * self.ranks)

    def _items(self, worker: int, number: int, of: int) -> Iterator[TrainItem]:
        start, first_pool, done = self.places[worker]
        part = self.rows.rows.shard(number, of)
        split = None if part is None else part.split
        share = self.rows.rows.share(number, of, start) if part is None else part.share(0, 1, start)
        columns = self.rows.columns
        share = ((index, {name: row.get(name) for name in columns}) for index, row in share)  # others may be large
        while block := list(islice(share, self._block_rows(start))):
            seed = f"{self.seed} {self.epoch} {number} {start}"
            random.Random(seed).shuffle(block)  # noqa: S311
            size = self.batching.pool
            for pool in range(first_pool, -(-len(block) // size)):
                encoded, counts = self.rows.encode(block[pool * size : (pool + 1) * size], split)
                batches = self.batching.batches(encoded, split or self.rows.reading.split, f"{seed} {pool}")
                for count, batch in enumerate(batches[done:], start=done + 1):
                    own = counts if count == len(batches) else Counts()
                    yield TrainItem([row.values for row in batch], worker, Place(start, pool, count), own)
                done = 0
            start, first_pool = start + len(block), 0

    def _block_rows(self, start: int) -> int:
        """Rows of the block that starts there; the first one's differ by epoch, so that other rows meet in each."""
        first = random.Random(f"{self.seed} {self.epoch}").randint(1, self.blocks)  # noqa: S311
        return (self.blocks if start else first) * self.batching.batch_size


class EvaluationStream(IterableDataset[EvaluationItem]):
    """Batches to evaluate or to predict, each row once over all processes.

    Args:
        rows: to be tokenised.
        batch_size: rows of a batch.
        in_order: keep the order of the rows; else rows of like lengths share a batch.
        decoded_rows: of the split; they come before others of their pool.
        rank: of this process.
        ranks: processes that read together.
    """

    def __init__(
        self,
        rows: EncodedStream,
        *,
        batch_size: int,
        in_order: bool,
        decoded_rows: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.in_order, self.decoded_rows = rows, batch_size, in_order, decoded_rows
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[EvaluationItem]:
        """One item a pool, an empty one too: workers take turns, and so their pools stay in order."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        share = self.rows.rows.share(self.rank, self.ranks)
        size = self.batch_size * (1 if self.in_order else _EVALUATION_POOL)
        turn = 0
        while pool := list(islice(share, size)):
            if turn % workers == worker:
                yield self._item(pool)
            turn += 1

    def _item(self, pool: Numbered) -> EvaluationItem:
        encoded, counts = self.rows.encode(pool)
        if not self.in_order:
            encoded.sort(key=lambda row: (row.values["index"] >= self.decoded_rows, row.length))
        values = [row.values for row in encoded]
        batches = [values[n : n + self.batch_size] for n in range(0, len(values), self.batch_size)]
        return EvaluationItem(batches, dict(pool), counts)
