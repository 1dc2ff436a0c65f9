"""The loop over trials that the command `tune` and the function `tune` share."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.backbone.shelf import sharing_backbone
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.training import MakeTrainer, train
from lightning_prefix.tuning import results, storage
from lightning_prefix.tuning.pruning import OptunaPruning
from lightning_prefix.tuning.space import Space
from lightning_prefix.tuning.workers import Workers, directory_lock

if TYPE_CHECKING:
    import optuna

Direction = Literal["maximize", "minimize"]

_SAME_FAILURES = 3
"""After so many equal failures of the first trials nothing else is to be expected."""

_SECONDS_BETWEEN_PLOTS = 30
"""They take one or two; trials of a second would spend most of their time on them."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study is run; the names and defaults of the command's options."""

    trials: int = 20
    directory: Path = Path("tuning")
    metric: str | None = None
    direction: Direction | None = None
    sampler: str = "TPESampler"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "MedianPruner"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    storage: str | None = None
    study: str = "tuning"
    resume: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """What one trial trains.

    Args:
        task: new, without weights.
        data: what it is trained on.
        make_trainer: makes the Trainer.
        seed: of everything.
        options: of the Trainer.
    """

    task: PrefixTask
    data: TextDataModule
    make_trainer: MakeTrainer
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)


def search(
    space: Space,
    make: Callable[[Mapping[str, Any]], Run],
    options: StudyOptions,
    write_best: Callable[["optuna.trial.FrozenTrial"], None] = lambda _: None,
) -> "optuna.Study":
    """Run trials until the study has as many finished ones as wanted.

    A trial that fails is recorded with its message as attribute `error`; the others go on. Samplers get the seed; a
    process that resumes or joins a study adds the number of its trials and its own process id, so that no two workers
    draw the same points. One process without `resume` is therefore reproducible, several are not.

    Args:
        space: what is varied.
        make: from values to what is trained.
        options: of the study.
        write_best: called with the best trial whenever results are written.

    Returns:
        The study.

    Raises:
        InputError: if the study cannot be begun, or its first three trials fail with the same message.
    """
    if options.trials < 1:
        raise InputError(f"trials {options.trials} is given; it is a number of trials >= 1.")
    task = _check(make(next(space.examples())))
    options.directory.mkdir(parents=True, exist_ok=True)
    study, workers = _open(space, options, _direction(task, options))
    try:
        with sharing_backbone():
            drawn = -math.inf
            while _run_next(workers, space, make, options):
                if is_time := time.monotonic() - drawn > _SECONDS_BETWEEN_PLOTS:
                    drawn = time.monotonic()
                results.write(workers, write_best, draw=is_time)
    finally:
        for sentence in results.write(workers, write_best, draw=True):
            rank_zero_info(sentence)
    if waiting := [t.number for t in workers.trials() if t.state.name == "RUNNING"]:
        rank_zero_info(
            f"trials {', '.join(map(str, waiting))} are run by other workers. If one of those was killed, --resume "
            "true runs its trial again (with a database and no common directory, 90 seconds after its end)."
        )
    return study


def _check(run: Run) -> PrefixTask:
    with _quiet():
        trainer = run.make_trainer([], logger=False, enable_checkpointing=False, **run.options)
    if trainer.world_size > 1:
        raise InputError(
            f"the Trainer has {trainer.world_size} processes; tuning runs a trial in one, and many trials at once by "
            "many workers. Set --trainer.devices 1, and start one worker per device with --resume true."
        )
    return run.task


def _direction(task: PrefixTask, options: StudyOptions) -> Direction:
    if options.direction:
        return options.direction
    if options.metric in (None, task.monitor):
        return "maximize" if task.mode == "max" else "minimize"
    if str(options.metric).endswith("loss"):
        return "minimize"
    raise InputError(f"metric {options.metric!r} is given; give --direction maximize or minimize with it.")


def _open(space: Space, options: StudyOptions, direction: Direction) -> "tuple[optuna.Study, Workers]":
    optuna = storage.import_optuna()
    pruner = storage.make("pruners", options.pruner, options.pruner_options)
    sampler = storage.make("samplers", options.sampler, {"seed": options.seed, **options.sampler_options})
    with directory_lock(options.directory):
        kept = storage.open_storage(options.storage, options.directory)
        try:
            study = optuna.create_study(
                storage=kept,
                study_name=options.study,
                direction=direction,
                sampler=sampler,
                pruner=pruner,
                load_if_exists=options.resume,
            )
        except optuna.exceptions.DuplicatedStudyError:
            count = len(optuna.load_study(study_name=options.study, storage=kept).trials)
            raise InputError(
                f"the study {options.study!r} exists with {count} trials; give --resume true to go on with it, or "
                "another --directory (and --study, in a database)."
            ) from None
        if study.direction.name.lower() != direction:
            raise InputError(
                f"direction {direction} is wanted; the study {options.study!r} was begun with "
                f"{study.direction.name.lower()}. Give another --study and --directory."
            )
        text = json.dumps(space.given, sort_keys=True)
        if (begun := study.user_attrs.get("space", text)) != text:
            raise InputError(
                f"the study {options.study!r} was begun with another space: {begun}. Give that one, "
                "or another --study and --directory."
            )
        study.set_user_attr("space", text)
    if options.resume:
        seed = (options.seed + len(study.trials) + os.getpid()) % 2**32
        study.sampler = storage.make("samplers", options.sampler, {"seed": seed, **options.sampler_options})
    return study, Workers(study, kept, options.directory, options.trials)


def _run_next(
    workers: Workers,
    space: Space,
    make: Callable[[Mapping[str, Any]], Run],
    options: StudyOptions,
) -> bool:
    """Run one more trial, unless there are enough."""
    optuna = storage.import_optuna()
    state, start = optuna.trial.TrialState, time.monotonic()
    with workers.next_trial() as trial:
        if trial is None:
            return False
        failure: Exception | None = None
        try:
            values = space.sample(trial)
            value = _train(make(values), trial, options, workers.directory / f"trial_{trial.number}")
            workers.tell(trial, value)
        except optuna.TrialPruned:
            workers.tell(trial, state=state.PRUNED)
        except Exception as error:  # whatever these values lead to, others may work
            failure = error
            trial.set_user_attr("error", " ".join(f"{type(error).__name__}: {error}".split()))
            workers.tell(trial, state=state.FAIL)
    rank_zero_info(results.line(workers, trial.number, time.monotonic() - start))
    if failure is not None:
        _stop_if_hopeless(workers, failure)
    return True


def _train(run: Run, trial: "optuna.Trial", options: StudyOptions, folder: Path) -> float:
    """The best value of the metric over the validations."""
    watch = OptunaPruning(trial, options.metric)
    try:
        with _quiet():
            train(run.task, run.data, run.make_trainer, folder, run.seed, [watch], **run.options)
    finally:
        if run.task.model is not None:
            run.task.model.unload()
    trial.set_user_attr("metric", watch.monitor)
    finite = [value for value in watch.values if math.isfinite(value)]
    if not watch.values:
        raise InputError("no validation ran; a trial is judged by one. Raise trainer.max_epochs or max_steps.")
    if not finite:
        raise InputError(f"{watch.monitor} was never a finite number.")
    return max(finite) if trial.study.direction.name == "MAXIMIZE" else min(finite)


def _stop_if_hopeless(workers: Workers, failure: Exception) -> None:
    trials = [trial for trial in workers.trials() if trial.state.is_finished()]
    errors = {trial.user_attrs.get("error") for trial in trials}
    if len(trials) == _SAME_FAILURES and len(errors) == 1:
        raise failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's information; warnings and errors stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
