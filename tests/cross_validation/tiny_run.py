"""A cross-validation of seconds, for the tests and for the processes that they start."""

import sys
import time
from pathlib import Path
from typing import Any

import datasets
from tiny_files import review

import lightning_prefix as lp

ROWS = [review(row) for row in range(36)]
TRAINER = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}


def run(backbone: str, directory: "str | Path", wait: float = 0.0, **options: Any) -> lp.CrossValidation:
    """Three folds of two epochs with three steps each."""

    def make_task() -> lp.TextClassification:
        time.sleep(wait)
        return lp.TextClassification(backbone, lp.FlatPrefixConfig(length=3, dropout=0.1), learning_rate=0.5)

    data = lp.TextClassificationDataModule(ROWS, batch_size=8)
    return lp.cross_validate(make_task, data, **{"folds": 3, "directory": directory, "trainer": TRAINER, **options})


if __name__ == "__main__":  # one of several processes, which begin together
    backbone, directory, number, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    datasets.config.HF_DATASETS_CACHE = directory.parent / "cache"
    (directory.parent / f"ready_{number}").touch()
    while len(list(directory.parent.glob("ready_*"))) < count:
        time.sleep(0.01)
    found = run(backbone, directory, wait=0.3, resume=True, settings={"of": "the test"})
    print(found)
