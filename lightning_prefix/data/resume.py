"""A train loader that goes on where a checkpoint was written, in the middle of an epoch too."""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from lightning_prefix.errors import InputError

__all__ = ["POOL", "ResumableDataLoader", "ResumableSampler", "group_by_length"]

POOL = 50
"""Batches among which rows of like lengths are brought together; more would be less random."""


class ResumableSampler(DistributedSampler[int]):
    """A `DistributedSampler` that can leave the first rows of one epoch out.

    The order depends on the seed and the epoch alone. `len()` is that of a whole epoch, as Lightning expects.
    With `lengths`, rows of like lengths share a batch.
    """

    lengths: Sequence[int] | None = None
    batch_size = 1
    _start_epoch = 0
    _start_row = 0
    is_placed = False
    """Whether it was placed by a checkpoint, and no row was taken since."""
    _ahead = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, as Lightning does.

        After a checkpoint that was written when an epoch had ended, in a training without `max_epochs`, Lightning goes
        through an epoch without batches first, and its numbers are one ahead from then on.
        """
        if self.is_placed:
            self._ahead = max(0, epoch - self._start_epoch - (self._start_row > 0))
        super().set_epoch(epoch - self._ahead)

    def place_at(self, epoch: int, row: int) -> None:
        """As `start_at`, for a training that goes on from a checkpoint."""
        self.start_at(epoch, row)
        self.is_placed = True

    def start_at(self, epoch: int, row: int) -> None:
        """Leave out the first `row` rows (of this rank) of `epoch`; other epochs are whole."""
        super().set_epoch(epoch)
        self._start_epoch = epoch
        self._start_row = row

    @property
    def skipped(self) -> int:
        """Rows that are left out of the current epoch."""
        return self._start_row if self.epoch == self._start_epoch else 0

    def __iter__(self) -> Iterator[int]:
        rows = list(super().__iter__())
        if self.lengths is not None:
            rows = group_by_length(rows, self.lengths, self.batch_size, self.seed + self.epoch)
        return itertools.islice(rows, self.skipped, None)


def group_by_length(rows: Sequence[int], lengths: Sequence[int], batch_size: int, seed: int | str) -> list[int]:
    """Reorder shuffled rows so that the rows of a batch have like lengths and little is padded.

    Rows are sorted within pools of 50 batches, then the batches are shuffled. An incomplete batch stays the last.

    Args:
        rows: in random order.
        lengths: tokens of each row, by its number.
        batch_size: rows per batch.
        seed: of the order of the batches.

    Example:
        >>> group_by_length([0, 1, 2, 3, 4], [9, 2, 8, 1, 9], batch_size=2, seed=0)
        [3, 1, 2, 0, 4]
    """
    pool = POOL * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(rows), pool):
        by_length = sorted(rows[start : start + pool], key=lambda row: lengths[row])
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    rest = [batches.pop()] if batches and len(batches[-1]) < batch_size else []
    random.Random(seed).shuffle(batches)  # noqa: S311
    return [row for batch in [*batches, *rest] for row in batch]


class ResumableDataLoader(DataLoader[Any]):
    """A `DataLoader` whose place in the epoch is saved in the checkpoint.

    Lightning calls `state_dict` and `load_state_dict`.

    It needs a `ResumableSampler`; with any other sampler (Lightning's `overfit_batches` puts one in) every
    epoch starts at its first row. The batch size must not change between saving and loading.
    """

    _epoch = 0
    _batches = 0  # handed out in this epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator, since Lightning asks for an iterator before it sets the epoch, and workers read ahead
        batches = super().__iter__()
        skipped = self.sampler.skipped if isinstance(self.sampler, ResumableSampler) else 0
        self._epoch = getattr(self.sampler, "epoch", 0)
        self._batches = skipped // (self.batch_size or 1)
        for batch in batches:
            self._batches += 1
            if isinstance(self.sampler, ResumableSampler):
                self.sampler.is_placed = False
            if self._batches >= len(self) and isinstance(self.sampler, ResumableSampler):
                self.sampler.start_at(self._epoch, 0)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place of the next batch: its epoch, and the batches before it in that epoch."""
        if self._batches >= len(self):
            return {"epoch": self._epoch + 1, "batches": 0}
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next iteration at this place.

        Raises:
            InputError: if it is the place in a stream.
        """
        if "places" in state_dict:
            raise InputError(
                "the checkpoint was written in a training with data.streaming, whose order depends on it. Resume with "
                "streaming=True, or start from the trained prefix: --model.prefix.init file --model.prefix.init_file "
                "FOLDER."
            )
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]
        if isinstance(self.sampler, ResumableSampler):
            self.sampler.place_at(self._epoch, self._batches * (self.batch_size or 1))
