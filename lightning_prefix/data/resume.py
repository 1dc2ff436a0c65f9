"""A train loader that goes on where a checkpoint was written, in the middle of an epoch too."""

import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, DistributedSampler

__all__ = ["ResumableDataLoader", "ResumableSampler"]

T = TypeVar("T")


class ResumableSampler(DistributedSampler[T]):
    """A `DistributedSampler` that can leave the first rows of one epoch out.

    The order depends on the seed and the epoch alone. `len()` is that of a whole epoch, as Lightning expects.
    """

    _start_epoch = 0
    _start_row = 0

    def start_at(self, epoch: int, row: int) -> None:
        """Leave out the first `row` rows (of this rank) of `epoch`; other epochs are whole."""
        self.set_epoch(epoch)
        self._start_epoch = epoch
        self._start_row = row

    @property
    def skipped(self) -> int:
        """Rows that are left out of the current epoch."""
        return self._start_row if self.epoch == self._start_epoch else 0

    def __iter__(self) -> Iterator[T]:
        return itertools.islice(super().__iter__(), self.skipped, None)


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
            if self._batches >= len(self) and isinstance(self.sampler, ResumableSampler):
                self.sampler.start_at(self._epoch, 0)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place of the next batch: its epoch, and the batches before it in that epoch."""
        if self._batches >= len(self):
            return {"epoch": self._epoch + 1, "batches": 0}
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next iteration at this place."""
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]
        if isinstance(self.sampler, ResumableSampler):
            self.sampler.start_at(self._epoch, self._batches * (self.batch_size or 1))
