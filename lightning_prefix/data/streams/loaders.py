"""Loaders of streams: training goes on where a checkpoint was written, and all processes take the same steps."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_prefix.data.streams.stream import (
    BEGIN,
    Counts,
    EncodedStream,
    EvaluationItem,
    EvaluationStream,
    Place,
    TrainItem,
    TrainStream,
)
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

__all__ = ["EvaluationStreamLoader", "TrainStreamLoader", "trainer_options"]

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]

_AT_ONCE = 16
"""Batches about which several processes agree in one message."""


class TrainStreamLoader:
    """Training batches of a stream, with a `state_dict`.

    The process that comes to its end first ends the epoch for all; what others have left then, a row or two where each
    row is one of a batch, is not trained on in it.

    Args:
        stream: of one process.
        collate: from rows to a batch.
        num_workers: processes that load.
        gather: from one tensor of this process to those of all, (ranks, ...); needed for several.
        limit: batches of an epoch at most.
        is_counted: whether `count` is called as each batch is used, as the data module does in a Trainer, which takes
            batches ahead; else a batch counts as soon as it is handed out.
    """

    def __init__(
        self,
        stream: TrainStream,
        collate: Collate,
        *,
        num_workers: int = 0,
        gather: Callable[[Tensor], Tensor] | None = None,
        limit: int | None = None,
        is_counted: bool = False,
    ) -> None:
        self.stream, self.num_workers, self.is_counted = stream, num_workers, is_counted
        self.collate, self.gather, self.limit = collate, gather, limit
        self.epoch = 0
        self._state = self._begin = self._fresh(0)
        self._handed: deque[dict[str, Any]] = deque()
        self._is_told = False

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is that of this epoch; in a Trainer it is the one after those that were used up."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """The place of the next batch, in all processes; plain data."""
        return self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next iteration at this place.

        Raises:
            InputError: if it was written with other options, with which the order would be another.
        """
        if "places" not in state_dict:
            raise InputError(
                "the checkpoint was written in a training without data.streaming, whose order a stream cannot take up. "
                "Leave streaming out, or start from the trained prefix: --model.prefix.init file --model.prefix."
                "init_file FOLDER."
            )
        own = self._fresh(0)["options"]
        if other := {name: value for name, value in state_dict["options"].items() if own[name] != value}:
            name = next(iter(other))
            raise InputError(
                f"the checkpoint was written with {name}={other[name]}, and {name}={own[name]} is given; the rows of a "
                f"stream would come in another order. Resume with {name}={other[name]}."
            )
        self.epoch, self._begin, self._state = state_dict["epoch"], state_dict, state_dict

    def count(self) -> None:
        """Take down that one more batch is used."""
        self._state = self._handed.popleft()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        begin = self._begin if self._begin["epoch"] == self.epoch else self._fresh(self.epoch)
        if self.is_counted:  # the Trainer starts some iterations twice, and misnumbers epochs after some resumptions
            begin = self._state
        self._handed.clear()
        self._state = begin
        return self._batches(begin)

    def _batches(self, begin: dict[str, Any]) -> Iterator[dict[str, Any]]:
        epoch, places = begin["epoch"], [list(of_rank) for of_rank in begin["places"]]
        turns = list(begin["turns"])
        self.stream.epoch, self.stream.first_worker = epoch, turns[self.stream.rank]
        self.stream.places = [Place(*place) for place in places[self.stream.rank]]
        counts, is_empty = Counts(), True
        items = iter(_loader(self.stream, partial(_collated, self.collate), self.num_workers))
        left = None if self.limit is None else self.limit - begin["batches"]
        for done, (item, of_ranks, is_last) in enumerate(islice(self._in_step(items), left), start=1):
            is_empty, counts = False, counts.plus(item.counts)
            for rank, (worker, *place) in enumerate(of_ranks):
                places[rank][worker] = place
                turns[rank] = (worker + 1) % len(places[rank])
            state = self._fresh(epoch + 1)
            if not (is_last or done == left):
                state |= {"epoch": epoch, "batches": begin["batches"] + done, "turns": list(turns)}
                state["places"] = [list(of_rank) for of_rank in places]
            if self.is_counted:
                self._handed.append(state)
            else:
                self._state = state
            yield item.batch
        if is_empty and begin == self._fresh(epoch):
            raise InputError(
                f"{self.stream.rows.reading.split!r} gives no batch to train on for each of {self.stream.ranks} "
                "processes: there are too few rows, or none has text. Use fewer devices or more rows."
            )
        if not self._is_told and begin == self._fresh(epoch):
            self._is_told = True
            _tell(counts, self.stream.rows)

    def _in_step(self, items: Iterator[TrainItem]) -> Iterator[tuple[TrainItem, list[list[int]], bool]]:
        """Items as long as every process has one, with worker and place in each process, and whether it is the last."""
        ready: deque[tuple[TrainItem, list[list[int]]]] = deque()
        at_once = _AT_ONCE if self.stream.ranks > 1 else 1
        is_over = False
        while True:
            while len(ready) < 2 and not is_over:
                taken = list(islice(items, at_once))
                together = self._together(taken)
                is_over = len(together) < at_once
                ready.extend(zip(taken, together, strict=False))
            if not ready:
                return
            item, of_ranks = ready.popleft()
            yield item, of_ranks, is_over and not ready

    def _together(self, items: list[TrainItem]) -> list[list[list[int]]]:
        """For each step that all processes can take, worker and place of each."""
        own = [[item.worker, *item.place] for item in items]
        if self.stream.ranks == 1:
            return [[one] for one in own]
        assert self.gather is not None  # noqa: S101  # a Trainer with several processes has one
        padded = torch.tensor(own + [[-1, 0, 0, 0]] * (_AT_ONCE - len(own)))
        gathered = self.gather(padded).tolist()  # (ranks, steps, 4)
        steps = [list(of_ranks) for of_ranks in zip(*gathered, strict=True)]
        return [of_ranks for of_ranks in steps if all(worker >= 0 for worker, *_ in of_ranks)]

    def _fresh(self, epoch: int) -> dict[str, Any]:
        """The state before the first batch of an epoch."""
        workers, batching = max(1, self.num_workers), self.stream.batching
        return {
            "epoch": epoch,
            "batches": 0,  # of this epoch, handed out
            "turns": [0] * self.stream.ranks,  # the worker whose batch comes next
            "places": [[list(BEGIN) for _ in range(workers)] for _ in range(self.stream.ranks)],
            "options": {
                "data.batch_size": batching.batch_size,
                "data.max_batch_tokens": batching.max_batch_tokens,
                "data.group_by_length": batching.group_by_length,
                "data.num_workers": self.num_workers,
                "data.seed": self.stream.seed,
                "data.shuffle_buffer": self.stream.shuffle_buffer,
                "processes": self.stream.ranks,
            },
        }


class EvaluationStreamLoader:
    """Batches of a stream to evaluate or predict, each row once over all processes; some may have more batches.

    Args:
        stream: of one process.
        collate: from rows to a batch.
        num_workers: processes that load.

    Raises:
        InputError: if there are fewer rows than processes.
    """

    def __init__(self, stream: EvaluationStream, collate: Collate, *, num_workers: int = 0) -> None:
        if len(stream.rows.rows.head) < stream.ranks:
            raise InputError(
                f"the rows of {stream.rows.reading.split!r} are {len(stream.rows.rows.head)}, for {stream.ranks} "
                "processes; each process needs at least one row. Use fewer devices or more rows."
            )
        self.stream, self.collate, self.num_workers = stream, collate, num_workers
        self._is_told = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        counts = Counts()
        for item in _loader(self.stream, partial(_all_collated, self.collate), self.num_workers):
            counts = counts.plus(item.counts)
            self.stream.rows.recent.add(item.raw)
            yield from item.batches
        if not self._is_told:
            self._is_told = True
            _tell(counts, self.stream.rows)


def trainer_options(trainer: Any) -> dict[str, Any]:
    """What a `TrainStreamLoader` must know of the Trainer that is to use it, if there is one."""
    if trainer is None:
        return {}
    strategy, limit = trainer.strategy, trainer.limit_train_batches
    return {
        "gather": lambda tensor: strategy.all_gather(tensor.to(strategy.root_device)),
        "limit": limit if isinstance(limit, int) else None,
        "is_counted": True,
    }


def _collated(collate: Collate, item: TrainItem) -> TrainItem:
    return item._replace(batch=collate(item.batch))


def _all_collated(collate: Collate, item: EvaluationItem) -> EvaluationItem:
    return item._replace(batches=[collate(rows) for rows in item.batches])


def _loader(stream: "IterableDataset[Any]", collate: Callable[[Any], Any], num_workers: int) -> "DataLoader[Any]":
    return DataLoader(
        stream,
        batch_size=None,  # they come ready
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=_begin_worker if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # a generator of its own: loading takes no numbers from the one that dropout uses
        generator=torch.Generator().manual_seed(0),
    )


def _begin_worker(_: int) -> None:
    """Rows are tokenised in the workers, of which there are several: each has one thread."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _tell(counts: Counts, rows: EncodedStream) -> None:
    """One line for rows that were left out, and one for those that were cut, in the first whole pass."""
    split = rows.reading.split
    if counts.left_out:
        rank_zero_info(
            f"{counts.left_out} of {counts.rows} rows of {split!r}, as this process read it, have no text and were "
            "left out."
        )
    if counts.cut:
        rank_zero_info(
            f"{counts.cut} of {counts.encoded} texts of {split!r}, as this process read it, were cut to "
            f"max_length={rows.reading.max_length} tokens."
        )
