"""Which checkpoints are kept: the best by the task's own metric, and the last."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_prefix.errors import InputError


class PrefixCheckpoint(ModelCheckpoint):
    """`best.ckpt` by the task's metric, and `last.ckpt` after every validation, in the run's folder.

    Lightning's own `save_last` writes only together with a new best one, so a stopped run would lose all that came
    after. Files are replaced in one move: a killed run leaves no half checkpoint.

    Args:
        dirpath: folder; `checkpoints` in the logger's folder when null.
        filename: of the best ones, with metrics in braces as in `ModelCheckpoint`.
        monitor: metric that decides; the task's own when null (`val/accuracy`, `val/pearson`).
        mode: whether it is better larger (`max`) or smaller (`min`); read with `monitor` only.
        save_top_k: how many of the best to keep; -1 for all. More than one needs a `filename` that tells them apart.
        every_n_train_steps: write `last.ckpt` after so many optimizer steps too, >= 1, for long epochs.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best",
        monitor: str | None = None,
        mode: str = "max",
        save_top_k: int = 1,
        every_n_train_steps: int | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise InputError(f"every_n_train_steps {every_n_train_steps} is given; it is >= 1, or null.")
        self.last_every_n_train_steps = every_n_train_steps
        self._last_step = 0
        self._stage = "fit"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the metric from the task where none was given."""
        if self.monitor is None:
            task: Any = pl_module
            self.monitor, self.mode = task.monitor, task.mode
            self.kth_value = torch.tensor(float("inf") if self.mode == "min" else float("-inf"))
        super().setup(trainer, pl_module, stage)
        self._stage = stage

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a training stopped; what was best then means nothing to a test or a prediction."""
        if self._stage == "fit":
            super().load_state_dict(state_dict)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the last checkpoint where it is due within an epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.last_every_n_train_steps and trainer.global_step % self.last_every_n_train_steps == 0:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the best checkpoint if it is one, and the last."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint where there is no validation."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.global_step != self._last_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._last_step = trainer.global_step
            self.last_model_path = str(Path(str(self.dirpath)) / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path, weights_only=False)
