"""`RowStream`: the rows of a split, read anew from their source each time; only the first ones are kept."""

import itertools
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["Chain", "Part", "RecentRows", "Row", "RowStream", "Source", "first_rows", "select_stream"]

Row = dict[str, Any]

_HEAD = 1000
"""Rows by which a split is judged: its columns, their types, whether there are labels."""
_MOST_VALUES = 10_000
"""Different values that names of classes may be; a column of texts would fill the memory."""
_KEPT = 3
"""Pools whose raw rows are kept: the Trainer takes a batch before it is through with the one before."""
_SLICE = re.compile(r"\s*([^\[\]+\s]+)\s*(?:\[\s*(\d*)\s*:\s*(\d*)\s*\])?\s*")


class Source(ABC):
    """Where rows come from; copied into the processes that load."""

    @property
    def shards(self) -> int:
        """Parts that can be read apart; 1 if the rows before a row must be read to come to it."""
        return 1

    @property
    def is_remote(self) -> bool:
        """Whether reading all of it takes a network."""
        return False

    @property
    def features(self) -> Any:
        """Types of the columns, where the source declares them; else None."""
        return None

    @abstractmethod
    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""

    def shard(self, number: int, of: int) -> "Source":
        """One of so many parts of like size; `of` divides `shards`."""
        raise NotImplementedError(f"{type(self).__name__} is read as one")


@dataclass(frozen=True)
class Part(Source):
    """The rows `start` to `stop` (None for the last) of a source."""

    source: Source
    start: int
    stop: int | None

    @property
    def is_remote(self) -> bool:
        """As the source."""
        return self.source.is_remote

    @property
    def features(self) -> Any:
        """As of the source."""
        return self.source.features

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number of the part on."""
        stop = None if self.stop is None else max(0, self.stop - self.start - first)
        return itertools.islice(self.source.rows(self.start + first), stop)


@dataclass(frozen=True)
class Chain(Source):
    """Sources one after the other."""

    sources: tuple[Source, ...]

    @property
    def is_remote(self) -> bool:
        """If one of them is."""
        return any(source.is_remote for source in self.sources)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""
        return itertools.islice(itertools.chain.from_iterable(source.rows() for source in self.sources), first, None)


@dataclass(frozen=True)
class Changed(Source):
    """A source whose rows go through a top-level function."""

    source: Source
    function: Callable[[Row], Row]

    @property
    def is_remote(self) -> bool:
        """As the source."""
        return self.source.is_remote

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""
        return map(self.function, self.source.rows(first))


@dataclass(frozen=True, eq=False)
class RowStream:
    """Rows of a split.

    What is asked of a `datasets.Dataset` before its rows are read is answered from the first 1000 rows (`head`).

    Args:
        source: of the rows.
        split: its name.
    """

    source: Source
    split: str

    @cached_property
    def head(self) -> "datasets.Dataset":
        """The first rows.

        Raises:
            InputError: if there is none, or they form no table.
        """
        import datasets
        import pyarrow as pa

        rows = list(itertools.islice(self.source.rows(), _HEAD))
        if not rows:
            raise InputError(f"split {self.split!r} of the source is empty. Give it at least one row, or leave it out.")
        columns = {
            column: [row.get(column) for row in rows] for column in dict.fromkeys(c for row in rows for c in row)
        }
        try:
            return datasets.Dataset.from_dict(columns, features=self.source.features)
        except (pa.ArrowException, TypeError) as error:
            raise InputError(
                f"the rows of {self.split!r} do not form a table: {error}. Every column holds one type of value. "
                "Convert the values, for instance labels to str."
            ) from error

    @property
    def column_names(self) -> list[str]:
        """Of the first rows."""
        return list(self.head.column_names)

    @property
    def features(self) -> Any:
        """Types of the columns, by the first rows."""
        return self.head.features

    def __getitem__(self, column: str) -> Iterator[Any]:
        """All cells of a column, in one pass.

        Raises:
            InputError: if that takes a network.
        """
        if self.source.is_remote:
            raise InputError(
                f"all of {self.split!r} would be sent over the network only to find the names of its classes in "
                f"{column!r}. Give labels=, in the order of their numbers."
            )
        rank_zero_info(f"{self.split!r} is read once for the names of its classes in {column!r}; labels= saves that.")
        return (row.get(column) for row in self.source.rows())

    def unique(self, column: str) -> list[Any]:
        """The different values of a column, in one pass.

        Raises:
            InputError: if they are too many to be names of classes, or reading takes a network.
        """
        found: dict[Any, None] = {}
        for value in self[column]:
            found[value] = None
            if len(found) > _MOST_VALUES:
                raise InputError(
                    f"the column {column!r} of {self.split!r} holds more than {_MOST_VALUES} different values, too "
                    "many for classes. Name the column of the labels with label_column."
                )
        return list(found)

    def changed(self, function: Callable[[Row], Row]) -> "RowStream":
        """The stream of what a top-level function makes of each row."""
        return RowStream(Changed(self.source, function), self.split)

    def share(self, number: int, of: int, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Every so many rows, each with its number in the split.

        Args:
            number: which share, from 0.
            of: how many shares.
            first: rows of the share to leave out.
        """
        start = number + first * of
        return zip(itertools.count(start, of), itertools.islice(self.source.rows(start), 0, None, of), strict=False)

    def shard(self, number: int, of: int) -> "RowStream | None":
        """A part that is read apart from the others; None unless the source comes in parts for all shares alike."""
        if of < 2 or self.source.shards % of:
            return None
        return RowStream(self.source.shard(number, of), f"{self.split}, part {number + 1} of {of}")


class RecentRows:
    """Raw rows by their numbers, as in a `datasets.Dataset`, of the batches that were handed out last."""

    def __init__(self) -> None:
        self._pools: deque[dict[int, Row]] = deque(maxlen=_KEPT)

    def add(self, rows: dict[int, Row]) -> None:
        """Keep these, and forget the oldest."""
        self._pools.append(rows)

    def __getitem__(self, index: int) -> Row:
        for pool in self._pools:
            if index in pool:
                return pool[index]
        raise IndexError(f"row {index} of a stream is gone; raw rows are kept while their batch is read.")


def first_rows(rows: Any) -> "datasets.Dataset":
    """The rows by which a split is judged: all, or the first of a stream."""
    return rows.head if isinstance(rows, RowStream) else rows


def select_stream(splits: dict[str, RowStream], name: str) -> RowStream:
    """The split of this name, a slice of it by rows ("train[1000:]"), or several ("train+test").

    Raises:
        InputError: if it is malformed.
    """
    if name in splits:
        return splits[name]
    parts: list[Source] = []
    for part in name.split("+"):
        found = _SLICE.fullmatch(part)
        if found is None or found[1] not in splits:
            raise InputError(
                f"the split {name!r} cannot be read from a stream with the splits {', '.join(map(repr, splits))}: how "
                "many rows they have is not known. Write a slice by rows from the first, as 'train[:1000]' or "
                "'train[1000:]', or a sum as 'train+test'."
            )
        source, start, stop = splits[found[1]].source, int(found[2] or 0), int(found[3]) if found[3] else None
        parts.append(Part(source, start, stop) if start or stop is not None else source)
    return RowStream(parts[0] if len(parts) == 1 else Chain(tuple(parts)), name)
