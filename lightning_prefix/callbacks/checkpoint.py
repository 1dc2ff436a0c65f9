"""Which checkpoints are kept: the best by the task's own metric, and the last."""

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class PrefixCheckpoint(ModelCheckpoint):
    """`best.ckpt` by the task's metric and `last.ckpt`, in `checkpoints/` of the run's folder.

    Written under another name first, so that a killed run leaves no half file.

    Args:
        dirpath: folder; `checkpoints` in the logger's folder when null.
        filename: of the best ones, with metrics in braces as in `ModelCheckpoint`.
        monitor: metric that decides; the task's own when null (`val/accuracy`, `val/pearson`).
        mode: whether it is better larger (`max`) or smaller (`min`); read with `monitor` only.
        save_top_k: how many of the best to keep; -1 for all. More than one needs a `filename` that tells them apart.
        save_last: also keep the newest one as `last.ckpt`.
        every_n_train_steps: also save after so many optimizer steps, for long epochs; null: after each validation.
        train_time_interval: also save after so much time.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best",
        monitor: str | None = None,
        mode: str = "max",
        save_top_k: int = 1,
        save_last: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=save_last,
            every_n_train_steps=every_n_train_steps,
            train_time_interval=train_time_interval,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the metric from the task where none was given."""
        if self.monitor is None:
            task: Any = pl_module
            self.monitor, self.mode = task.monitor, task.mode
            self.kth_value = torch.tensor(float("inf") if self.mode == "min" else float("-inf"))
        super().setup(trainer, pl_module, stage)
