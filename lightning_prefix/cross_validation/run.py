"""`cross_validate`: train and test one task per fold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock, Timeout
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.backbone import sharing_backbone
from lightning_prefix.cross_validation.fold_runs import FoldRuns, Select
from lightning_prefix.cross_validation.folds import Fold, leave_one_out, make_folds, rows_of
from lightning_prefix.cross_validation.results import RESULT, CrossValidation, read_results, write_tables
from lightning_prefix.cross_validation.settings import LOCK, digest, open_directory
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.training import MakeTrainer, trainer_factory

__all__ = ["cross_validate"]


def cross_validate(
    make_task: Callable[[], PrefixTask],
    data: TextDataModule,
    *,
    folds: int = 5,
    repeats: int = 1,
    stratify: bool | None = None,
    group_column: str | None = None,
    leave_out: dict[str, Any] | None = None,
    select: Select = "last",
    at_once: int = 1,
    only: list[int] | None = None,
    directory: str | Path = "cross_validation",
    resume: bool = False,
    trainer: Mapping[str, Any] | MakeTrainer | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> CrossValidation:
    """Train on all folds but one and test on that one, for each in turn.

    Fold i equals a run of `fit` on its rows, exactly. `directory` gets a folder for each fold, with `metrics.csv`,
    `checkpoints`, `prefix` and, once it is finished, `result.json`; and `results.csv`, `summary.csv`, `results.json`.
    Several processes may work in one directory, each with `resume`: every fold is trained by one of them, and those
    of a process that dies are free again.

    Args:
        make_task: gives a new task.
        data: its train split is shared out; other splits are not read, but for declared names of classes.
        folds: parts that the rows are shared out into, >= 2.
        repeats: how many times, each with other folds and the next seed, >= 1.
        stratify: give every fold the same share of each class; null for yes where every row has one class.
        group_column: column whose equal values stay on one side, such as an author; null for the context of
            extractive question answering, and none for other tasks.
        leave_out: name -> what `data.source` takes, two or more: test on one of these data sets and train on the
            others, in place of folds.
        select: `last`: train all epochs without validation and test the last state, which selects nothing; `best`: cut
            `data.validation_fraction` off the rows to train on, and test the best checkpoint. With `last` the
            no-answer threshold of extractive question answering stays 0, for nothing tunes it.
        at_once: folds that are trained in one batch, each with its own rows, >= 1; they give what they give one by one,
            up to the rounding that padding changes. It takes so many times the memory, helps where a batch of one does
            not keep the device busy, and is not for `select: best`, dropout, 16-mixed and accumulated gradients.
        only: numbers of the folds that this process runs, from 0; all when null. For machines without a common file
            system: copy their folders together, then run with `resume` for the table.
        directory: folder of the results.
        resume: go on in a directory that is there: finished folds stay, an interrupted one goes on from its last epoch.
        trainer: options of `lightning.Trainer`, or a function as `lightning_prefix.training.trainer_factory` returns.
        seed: of folds and training.
        settings: plain data that must be the same on `resume`; the arguments of the task and the plain ones of the
            trainer when None.

    Returns:
        Tables of the folds that are finished, by this process and others.

    Raises:
        InputError: if the rows cannot be shared out so, the directory was made with other settings, or the Trainer has
            more than one device.
    """
    make_trainer = trainer if callable(trainer) else trainer_factory(trainer)
    _check_trainer(make_trainer(logger=False), select)
    sharing = {"folds": folds, "repeats": repeats, "stratify": stratify, "group_column": group_column}
    data, made = _shared_out(data, sharing, leave_out, seed)
    if at_once < 1 or (at_once > 1 and select == "best"):
        raise InputError(
            f"at_once={at_once} was given with select={select!r}; it is 1, or more with select='last': folds in one "
            "batch have no validation."
        )
    if wrong := [number for number in only or () if not 0 <= number < len(made)]:
        raise InputError(f"only={only} was given; there is no fold {wrong[0]}: they are 0 to {len(made) - 1}.")
    task = make_task()
    _check_rows(data, task)
    if settings is None:
        settings = {"task": dict(task.hparams), "trainer": None if callable(trainer) else trainer}
    stored = open_directory(
        Path(directory),
        {
            **sharing,
            "leave_out": leave_out,
            "select": select,
            "seed": seed,
            "rows": len(rows_of(data)),
            "row_numbers": {fold.name: digest(fold) for fold in made},
            "run": settings,
        },
        resume,
    )
    run = FoldRuns(make_task, data, make_trainer, select, Path(directory), seed)
    try:
        held = _run_remaining(run, made if only is None else [made[number] for number in only], at_once)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the second of the first
        rank_zero_info(f"stopped; resume=True (--resume true) goes on with {str(directory)!r}.")
        raise
    names = [fold.name for fold in made]
    with FileLock(run.directory / LOCK):
        found = read_results(run.directory, names, share_rows=leave_out is None)
        write_tables(run.directory, found, stored)
    if (left := len(made) - len(found.frame) - len(held)) or held:
        rank_zero_info(
            f"{len(found.frame)} of {len(made)} folds are finished; other processes are training {len(held)}"
            f"{' (' + ', '.join(held) + ')' if held else ''}, and {left} are left."
        )
    return found


def _shared_out(
    data: TextDataModule, sharing: Mapping[str, Any], leave_out: Mapping[str, Any] | None, seed: int
) -> tuple[TextDataModule, list[Fold]]:
    """The data whose rows the folds name, and the folds."""
    if leave_out is None:
        return data, make_folds(data, **sharing, seed=seed)
    if given := [name for name, value in sharing.items() if value != {"folds": 5, "repeats": 1}.get(name)]:
        raise InputError(f"{given[0]}={sharing[given[0]]} and leave_out are given; each source is a fold. Give one.")
    return leave_one_out(data, leave_out)


def _check_trainer(trainer: Trainer, select: Select) -> None:
    if select not in get_args(Select):
        raise InputError(f"select={select!r} was given; it is one of {', '.join(map(repr, get_args(Select)))}.")
    if trainer.num_devices * trainer.num_nodes > 1:
        raise InputError(
            f"the Trainer has {trainer.num_devices} devices on {trainer.num_nodes} nodes; a fold is trained on one. "
            "Set trainer.devices to 1 and start one process per device with resume and its own CUDA_VISIBLE_DEVICES: "
            "they share the folds."
        )
    watched = [c.monitor for c in trainer.callbacks if isinstance(c, EarlyStopping) and c.monitor.startswith("val/")]  # type: ignore[attr-defined]
    if select == "last" and watched:
        raise InputError(
            f"the Trainer stops early by {watched[0]}, but select='last' has no validation. Take EarlyStopping out, or "
            "give select='best'."
        )


def _check_rows(data: TextDataModule, task: PrefixTask) -> None:
    """Read every row once, before hours of training, so that an error has the row's number in the whole data."""
    rows = rows_of(data)
    whole = data.fold(rows, rows)
    whole.serve(task)
    whole.setup("fit")


def _run_remaining(run: FoldRuns, folds: Sequence[Fold], at_once: int) -> list[str]:
    """Run the folds that are neither finished nor held by another process, until there is none.

    Returns:
        Names of those that others hold.
    """
    with sharing_backbone():
        while True:
            with ExitStack() as claims:
                mine, held = _claimed(run.directory, folds, at_once, claims)
                if not mine:
                    return held
                if len(mine) == 1:
                    run.one(mine[0])
                else:
                    run.together(mine)


def _claimed(directory: Path, folds: Sequence[Fold], count: int, claims: ExitStack) -> tuple[list[Fold], list[str]]:
    """Up to so many folds of one repeat that this process has now, and names of those that others hold."""
    mine: list[Fold] = []
    held = []
    for fold in folds:
        folder = directory / fold.name
        if (folder / RESULT).is_file() or len(mine) == count or (mine and mine[0].repeat != fold.repeat):
            continue
        with ExitStack() as claim:
            if not claim.enter_context(_claim(folder)):
                held.append(fold.name)
            elif not (folder / RESULT).is_file():  # another may have finished it just now
                mine.append(fold)
                claims.push(claim.pop_all())
    return mine, held


@contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Whether this process has the fold, until the block ends; the operating system frees it if the process dies."""
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
