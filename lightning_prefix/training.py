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

EPOCHS = 5
"""Of a training that nothing limits; Lightning's own 1000 would take days."""

MakeTrainer = Callable[..., Trainer]
"""From arguments that count more than its own to a new Trainer; `callbacks` are added."""


def is_unlimited(options: Mapping[str, Any]) -> bool:
    """Whether no option of a Trainer says when training ends.

    Example:
        >>> is_unlimited({"max_epochs": None, "max_steps": -1}), is_unlimited({"max_steps": 100})
        (True, False)
    """
    limits = (options.get("max_epochs"), options.get("max_time"), options.get("fast_dev_run") or None)
    return limits == (None, None, None) and options.get("max_steps", -1) == -1


def limited(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a Trainer, with 5 epochs where nothing limits training."""
    return {**options, "max_epochs": EPOCHS} if is_unlimited(options) else dict(options)


def trainer_factory(options: Mapping[str, Any] | None = None) -> MakeTrainer:
    """A `MakeTrainer` of plain arguments; every Trainer gets copies of the callbacks.

    Args:
        options: of `lightning.Trainer`, such as {"max_epochs": 3, "precision": "bf16-mixed"}; 5 epochs where nothing
            limits the training.
    """

    def make(callbacks: Sequence[Callback] = (), **more: Any) -> Trainer:
        own = copy.deepcopy({key: value for key, value in (options or {}).items() if key not in more})
        given = own.pop("callbacks", None) or []
        given = given if isinstance(given, list) else [given]
        return Trainer(callbacks=[*given, *callbacks], **limited({**own, **more}))

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
