"""A cross-validation of seconds, for the tests and for the processes that they start."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lightning
from tiny_files import review

import lightning_prefix as lp

ROWS = [review(row) for row in range(36)]
TRAINER = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
SETTINGS = {"of": "the test"}


class Stop(lightning.Callback):
    """Ctrl-C, or the end of the process, in the second epoch or the test of a fold."""

    def __init__(self, number: int, fold: str = "", in_test: bool = False) -> None:
        self.number, self.fold, self.in_test = number, fold, in_test

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 4 and not self.in_test:
            self._stop(trainer)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._stop(trainer)

    def _stop(self, trainer: lightning.Trainer) -> None:
        if self.fold in trainer.default_root_dir:
            os.kill(os.getpid(), self.number)


def run(
    backbone: str,
    directory: "str | Path",
    before: Callable[[], object] = lambda: None,
    make_prefix: Callable[[], lp.PrefixConfig] = lambda: lp.FlatPrefixConfig(length=3, dropout=0.1),
    **options: Any,
) -> lp.CrossValidation:
    """Three folds of two epochs with three steps each."""

    def make_task() -> lp.TextClassification:
        before()
        return lp.TextClassification(backbone, make_prefix(), learning_rate=0.5)

    data = lp.TextClassificationDataModule(ROWS, batch_size=8)
    return lp.cross_validate(make_task, data, **{"folds": 3, "directory": directory, "trainer": TRAINER, **options})


if __name__ == "__main__":  # one of three processes that begin together; the first one dies in its first fold
    backbone, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    (folder / f"ready_{number}").touch()
    while len(list(folder.glob("ready_*"))) < 3:
        time.sleep(0.01)

    def before() -> None:
        """Wait for the death of the first process, then so long that both others take a fold."""
        while number and not (folder / "dead").exists():
            time.sleep(0.01)
        time.sleep(0.5)

    trainer = TRAINER if number else {**TRAINER, "callbacks": Stop(signal.SIGKILL)}
    print(run(backbone, folder / "cv", before, resume=True, settings=SETTINGS, trainer=trainer))
