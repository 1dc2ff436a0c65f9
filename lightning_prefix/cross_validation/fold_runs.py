"""Train, test and save folds: one, or several in one batch."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.callbacks import PrefixCheckpoint
from lightning_prefix.cross_validation.folds import Fold, rows_of
from lightning_prefix.cross_validation.results import RESULT, write_json
from lightning_prefix.cross_validation.together import train_together
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.training import MakeTrainer, train

__all__ = ["FoldRuns", "Select"]

Select = Literal["last", "best"]


@dataclass(frozen=True)
class FoldRuns:
    """What the runs of all folds have in common; see `cross_validate`."""

    make_task: Callable[[], PrefixTask]
    data: TextDataModule
    make_trainer: MakeTrainer
    select: Select
    directory: Path
    seed: int

    def one(self, fold: Fold) -> None:
        """Train, test and save one fold."""
        start, is_best = time.perf_counter(), self.select == "best"
        data, folder = self._data(fold, validation=is_best), self.directory / fold.name
        options: dict[str, Any] = {"enable_model_summary": False, "enable_checkpointing": True}
        if not is_best:
            options |= {"limit_val_batches": 0, "num_sanity_val_steps": 0}
        with self._task(fold.name) as task:
            with warnings.catch_warnings():
                for message in (
                    r".*could not find the monitored key",
                    r"(Experiment logs|Checkpoint) directory .* exis",
                ):
                    warnings.filterwarnings("ignore", message=message)  # both are meant to be so
                trainer = train(task, data, self.make_trainer, folder, self.seed + fold.repeat, **options)
            checkpoint = _best_checkpoint(trainer) if is_best else None
            metrics = self._tested(trainer, task, data, folder, checkpoint)
        self._finish(fold, time.perf_counter() - start, metrics)

    def together(self, folds: Sequence[Fold]) -> None:
        """Train several folds of one repeat in one batch, then test and save each."""
        start, names = time.perf_counter(), ", ".join(fold.name for fold in folds)
        data = [self._data(fold) for fold in folds]
        folder, seed = self.directory / folds[0].name, self.seed + folds[0].repeat
        with self._task(names) as task:
            states = train_together(task, data, self.make_trainer, folder, seed, enable_model_summary=False)
            training = (time.perf_counter() - start) / len(folds)
            for fold, own, state in zip(folds, data, states, strict=True):
                start = time.perf_counter()
                task.load_state_dict(state)
                folder = self.directory / fold.name
                trainer = self.make_trainer(
                    logger=CSVLogger(str(folder / "test"), name="", version=""), default_root_dir=str(folder)
                )
                metrics = self._tested(trainer, task, own, folder, None)
                self._finish(fold, training + time.perf_counter() - start, metrics)

    def _data(self, fold: Fold, validation: bool = False) -> TextDataModule:
        rows = rows_of(self.data)
        return self.data.fold(rows.select(fold.train), rows.select(fold.test), validation=validation)

    @contextmanager
    def _task(self, names: str) -> Iterator[PrefixTask]:
        """A new task, whose backbone the next one may have."""
        task = self.make_task()
        try:
            yield task
        except InputError as error:
            raise InputError(f"{names}: {error}") from error
        finally:
            if task.model is not None:
                task.model.unload()

    def _tested(
        self, trainer: Trainer, task: PrefixTask, data: TextDataModule, folder: Path, checkpoint: str | None
    ) -> Mapping[str, float]:
        (metrics,) = trainer.test(task, data, ckpt_path=checkpoint, verbose=False)
        task.save_pretrained(folder / "prefix", data.description())
        return metrics

    def _finish(self, fold: Fold, seconds: float, metrics: Mapping[str, float]) -> None:
        """Write the result, which makes the fold a finished one, and say it in a line."""
        rows = {"train_rows": len(fold.train), "test_rows": len(fold.test)}
        described = {"fold": fold.name, **rows, "seed": self.seed + fold.repeat, "seconds": round(seconds, 1)}
        write_json(self.directory / fold.name / RESULT, {"fold": described, "metrics": dict(metrics)})
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        rank_zero_info(f"{fold.name}: {numbers} ({seconds:.0f} s)")


def _best_checkpoint(trainer: Trainer) -> str:
    callback = [c for c in trainer.checkpoint_callbacks if isinstance(c, PrefixCheckpoint)][-1]  # that of `train`
    if not callback.best_model_path:
        raise InputError(
            "select='best' is given, but no validation ran; give more epochs or steps, a smaller "
            "trainer.val_check_interval, or select='last'."
        )
    return callback.best_model_path
