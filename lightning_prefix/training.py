"""One training run as `fit` makes it, for whatever makes many of them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_prefix.callbacks import PrefixCheckpoint
from lightning_prefix.data import TextDataModule
from lightning_prefix.tasks import PrefixTask

MakeTrainer = Callable[..., Trainer]
"""From arguments that count more than its own to a new Trainer; `callbacks` are added."""


def trainer_factory(options: Mapping[str, Any] | None = None) -> MakeTrainer:
    """A `MakeTrainer` of plain arguments; every Trainer gets copies of the callbacks.

    Args:
        options: of `lightning.Trainer`, such as {"max_epochs": 3, "precision": "bf16-mixed"}.
    """

    def make(callbacks: Sequence[Callback] = (), **more: Any) -> Trainer:
        own = copy.deepcopy({key: value for key, value in (options or {}).items() if key not in more})
        given = own.pop("callbacks", None) or []
        given = given if isinstance(given, list) else [given]
        return Trainer(callbacks=[*given, *callbacks], **own, **more)

    return make


def train(
    task: PrefixTask,
    data: TextDataModule,
    make_trainer: MakeTrainer,
    folder: Path,
    seed: int,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:
    """Fit a task as `fit` does with this seed, and go on where an interrupted run in the same folder stopped.

    The folder gets `metrics.csv` and `checkpoints/` with `best.ckpt` (where there is a validation) and `last.ckpt`.

    Args:
        task: new, without weights.
        data: what it is trained on.
        make_trainer: makes the Trainer.
        folder: of the run.
        seed: of everything.
        callbacks: further ones.
        options: of the Trainer.

    Returns:
        The Trainer after `fit`; its last `PrefixCheckpoint` is that of the folder.

    Raises:
        KeyboardInterrupt: if the user stopped it.
    """
    seed_everything(seed, workers=True, verbose=False)
    checkpoints = PrefixCheckpoint(dirpath=str(folder / "checkpoints"))
    last = folder / "checkpoints" / "last.ckpt"
    logger = CSVLogger(str(folder), name="", version="")
    trainer = make_trainer([checkpoints, *callbacks], logger=logger, default_root_dir=str(folder), **options)
    trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return trainer
