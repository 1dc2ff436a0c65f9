"""What a training says of itself where there is no terminal, and how often it logs."""

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

__all__ = ["EpochLines", "FoundData", "LogInterval"]

_LOGGED = 50
"""Steps between two entries of the log, Lightning's own number."""
_LOGGED_PER_EPOCH = 10
"""Entries of an epoch that is shorter."""


class EpochLines(Callback):
    """One line for each epoch on standard output, for logs, where a progress bar cannot be drawn.

    Example:
        >>> epoch_line(1, 5, {"train/loss": 0.51, "val/accuracy": 0.8125}, 12.3)
        'epoch 1/5: train/loss 0.51, val/accuracy 0.8125 (12 s)'
    """

    def __init__(self) -> None:
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was measured; the validation of the epoch is over."""
        if trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            seconds = time.monotonic() - self._start
            print(epoch_line(trainer.current_epoch + 1, trainer.max_epochs, metrics, seconds), flush=True)


def epoch_line(epoch: int, epochs: int | None, metrics: dict[str, float], seconds: float) -> str:
    """The line of an epoch.

    Args:
        epoch: from 1.
        epochs: of the training; None or -1 where something else ends it.
        metrics: the last values.
        seconds: that the epoch took.
    """
    of = f"/{epochs}" if epochs and epochs > 0 else ""
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return f"epoch {epoch}{of}: {values} ({seconds:.0f} s)"


class FoundData(Callback):
    """Say which labels and how many rows were found, before hours are spent on the wrong ones."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The data are ready."""
        if stage != "fit":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        facts = data.summary()
        rows = ", ".join(f"{split} {count:,}" for split, count in facts["rows"].items()) or "a stream"
        rank_zero_info(f"rows:   {rows}, of {facts['source']}")
        if data.labels:
            rank_zero_info(f"labels: {shown(data.labels)}, in the column {data.label_column!r}")


def shown(labels: Sequence[str], most: int = 20) -> str:
    """Names of labels, for people.

    Example:
        >>> shown(["good", "bad", "fair"], 2)
        'good, bad and 1 more'
    """
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(map(str, labels[:most])) + more


class LogInterval(Callback):
    """Log every 50 steps, or more often where an epoch is shorter, ten times in each."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the interval; the data are ready, their loader is not made yet."""
        if stage == "fit":
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            interval = log_interval(data.batches_per_epoch, trainer.limit_train_batches)
            trainer.log_every_n_steps = interval  # type: ignore[attr-defined]


def log_interval(batches: int | None, limit: float | int | None) -> int:
    """Steps between two entries.

    Args:
        batches: of an epoch, >= 1; None where that is not known.
        limit: of the Trainer, as a number of batches or a share.

    Examples:
        >>> log_interval(251, 1.0), log_interval(251, 40), log_interval(5, 1.0)
        (50, 4, 1)
    """
    if batches is None:
        return _LOGGED
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return _LOGGED if batches >= _LOGGED else max(1, batches // _LOGGED_PER_EPOCH)
