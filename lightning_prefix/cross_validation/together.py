"""Several training runs of one task in one: each step reads a batch of every run, in one pass over the backbone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_prefix.data import TextDataModule
from lightning_prefix.data.collate import join
from lightning_prefix.data.resume import ResumableDataLoader
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.members import Members
from lightning_prefix.training import MakeTrainer


def train_together(
    task: PrefixTask,
    data: Sequence[TextDataModule],
    make_trainer: MakeTrainer,
    folder: Path,
    seed: int,
    **options: Any,
) -> list[dict[str, Tensor]]:
    """Train the task once on each of the data, all at the same time and without validation.

    Each run has the start values, the order of rows, the optimizer and the schedule that it would have alone. What
    differs is padding, and so the last bits of float32; and the random numbers of dropout, where there is any.

    Args:
        task: new, without weights; afterwards it has those of none of the runs.
        data: of each run.
        make_trainer: makes the Trainer, on one device.
        folder: gets `metrics.csv`.
        seed: of everything.
        options: of the Trainer.

    Returns:
        For each run what `task.load_state_dict` takes.

    Raises:
        InputError: for options that work for one run at a time only.
        KeyboardInterrupt: if the user stopped it.
    """
    seed_everything(seed, workers=True, verbose=False)
    trainer = make_trainer(
        logger=CSVLogger(str(folder), name="", version=""),
        default_root_dir=str(folder),
        enable_checkpointing=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        **options,
    )
    _check_alone(trainer)
    clipping = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    trainer.gradient_clip_val = trainer.gradient_clip_algorithm = None  # Lightning clips one optimizer only
    joint = JointTraining(task, len(data), *clipping)
    trainer.fit(joint, datamodule=JointData(task, data))
    if trainer.interrupted:
        raise KeyboardInterrupt
    states = [joint.members.trained_state(member) for member in range(len(data))]
    joint.members.remove()
    return states


def _check_alone(trainer: Any) -> None:
    advice = "Train the folds one by one (at_once=1), or leave it out."
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} does not work for folds in one batch. {advice}"
        )
    if trainer.world_size > 1:
        raise InputError(f"{trainer.world_size} devices do not work for folds in one batch. {advice}")
    if trainer.precision == "16-mixed":
        raise InputError(f"precision 16-mixed has one loss scale, which folds in one batch would share. {advice}")


class JointTraining(LightningModule):
    """Trains members of one task, each on its own part of a batch.

    Args:
        task: without weights.
        count: of the members.
        clip_value: of each member's gradients, as `Trainer.gradient_clip_val`.
        clip_algorithm: as `Trainer.gradient_clip_algorithm`.
    """

    def __init__(
        self, task: PrefixTask, count: int, clip_value: float | None = None, clip_algorithm: str | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.task, self.count = task, count
        self.clip_value, self.clip_algorithm = clip_value, clip_algorithm
        self.members: Members

    def setup(self, stage: str) -> None:
        """As the task's."""
        self.task.setup(stage)

    def configure_model(self) -> None:
        """The members start as the task does."""
        self.task.configure_model()
        self.members = Members(self.task)
        self.members.add_copies(self.count)
        for member, data in enumerate(cast("JointData", cast("Any", self.trainer).datamodule).data):
            self.task.start_from(data, self.members.trained_state(member))

    def on_fit_start(self) -> None:
        """As the task's."""
        self.task.on_fit_start()

    def configure_optimizers(self) -> Any:
        """An optimizer and a schedule for each member, as it has alone."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()
        configured = []
        for member, loader in enumerate(cast("JointLoader", trainer.train_dataloader).loaders):
            epochs = float("inf") if trainer.max_epochs in (None, -1) else trainer.max_epochs
            steps = epochs * min(len(loader), trainer.num_training_batches)
            one = self.task.optimization.configure(
                self.members.parameters_of(member),
                steps if trainer.max_steps == -1 else min(steps, trainer.max_steps),
                type(self.task.prefix_config),
                self.task.monitor,
            )
            if isinstance(one["lr_scheduler"]["scheduler"], ReduceLROnPlateau):
                raise InputError("ReduceLROnPlateau needs a validation; train the folds one by one with select='best'.")
            configured.append(one)
        return configured

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """One optimizer step of every member that has a batch."""
        parts: list[Batch | None] = batch["parts"]
        present = [member for member, part in enumerate(parts) if part is not None]
        alone = [cast("Batch", parts[member]) for member in present]
        with self.members.reading([0 if part is None else len(part["input_ids"]) for part in parts]):
            outputs = self.task(batch["joined"])
        assert self.task.head is not None  # noqa: S101
        each = self.task.head.split(outputs, alone)
        losses = torch.stack([self.task.loss(own, part) for own, part in zip(each, alone, strict=True)])
        self._check_losses(losses, present)
        self.manual_backward(losses.sum())
        optimizers, schedulers = _listed(self.optimizers()), _listed(self.lr_schedulers())
        for member in present:
            optimizer: LightningOptimizer = optimizers[member]
            self.clip_gradients(optimizer.optimizer, self.clip_value, self.clip_algorithm)
            # the last one through Lightning, which so counts one step for all
            (optimizer if member == present[-1] else optimizer.optimizer).step()
            optimizer.zero_grad()
            schedulers[member].step()
        self.log_dict({f"train/loss_{member}": loss for member, loss in zip(present, losses.detach(), strict=True)})
        self.log("train/loss", losses.detach().mean(), prog_bar=True, logger=False)

    def _check_losses(self, losses: Tensor, present: Sequence[int]) -> None:
        bad = [member for member, loss in zip(present, losses.tolist(), strict=True) if not abs(loss) < float("inf")]
        if bad:
            raise InputError(
                f"the training loss of run {bad[0]} of those in one batch is not finite at step {self.global_step}. "
                "Lower the learning_rate or set trainer.gradient_clip_val (for example 1.0)."
            )


class JointData(LightningDataModule):
    """Train batches of several data modules at the same time; for the rest it is the first one.

    Args:
        task: that is trained.
        data: of each member.
    """

    def __init__(self, task: PrefixTask, data: Sequence[TextDataModule]) -> None:
        super().__init__()
        self.data = list(data)
        for one in self.data:
            one.serve(task)

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data[0], name)

    def setup(self, stage: str) -> None:
        """Make the rows of all ready."""
        for one in self.data:
            one.setup("fit")

    def train_dataloader(self) -> "JointLoader":
        """Batches of all."""
        collator: Any = self.data[0].collator()
        return JointLoader([cast("ResumableDataLoader", one.train_dataloader()) for one in self.data], collator.padding)


class JointLoader:
    """`parts`: a batch of each loader, None of one that is through; `joined`: all of them in one batch.

    Args:
        loaders: of each member.
        padding: key -> number that fills the end of shorter rows; 0 for others.
    """

    def __init__(self, loaders: Sequence[ResumableDataLoader], padding: Mapping[str, int]) -> None:
        self.loaders, self.padding = list(loaders), padding
        self.sampler = self  # of which Lightning sets the epoch

    def set_epoch(self, epoch: int) -> None:
        """Of every loader."""
        for loader in self.loaders:
            cast("Any", loader.sampler).set_epoch(epoch)

    def __len__(self) -> int:
        return max(map(len, self.loaders))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        iterators = list(map(iter, self.loaders))
        for _ in range(len(self)):
            parts = [next(iterator, None) for iterator in iterators]
            yield {"parts": parts, "joined": join([part for part in parts if part is not None], self.padding)}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
