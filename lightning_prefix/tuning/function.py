"""`tune`: hyper-parameter search from Python."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.data import TextDataModule
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.training import trainer_factory
from lightning_prefix.tuning import results
from lightning_prefix.tuning.search import Direction, Run, StudyOptions, search
from lightning_prefix.tuning.space import Space

if TYPE_CHECKING:
    import optuna
    import pandas as pd

SILENT = {"enable_progress_bar": False, "enable_model_summary": False}
"""Trainer options of runs of which there are many, unless they are given."""


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Args:
        study: Optuna's.
        space: that was searched.
    """

    study: "optuna.Study"
    space: Space

    @property
    def best_values(self) -> dict[str, Any]:
        """The values of the best complete trial; empty if there is none."""
        trial = results.best(self.study)
        return {} if trial is None else self.space.values(trial.params)

    @property
    def frame(self) -> "pd.DataFrame":
        """The trials, as in `trials.csv`."""
        return results.frame(self.study)


def tune(
    make_task: Callable[[dict[str, Any]], PrefixTask],
    data: TextDataModule | Callable[[dict[str, Any]], TextDataModule],
    space: Mapping[str, Any],
    *,
    trials: int = 20,
    metric: str | None = None,
    direction: Direction | None = None,
    sampler: str = "TPESampler",
    sampler_options: Mapping[str, Any] | None = None,
    pruner: str = "MedianPruner",
    pruner_options: Mapping[str, Any] | None = None,
    storage: str | None = None,
    study: str = "tuning",
    resume: bool = False,
    trainer: Mapping[str, Any] | None = None,
    directory: str | Path = "tuning",
    seed: int = 0,
) -> Tuning:
    """Search the best values with Optuna; needs `pip install 'lightning-prefix[tune]'`.

    The directory gets `trials.csv`, plots, and `trial_N` with metrics and checkpoints of each trial. It also holds the
    study, unless there is a `storage`; a killed search goes on with `resume=True`, and so does a second process.

    Args:
        make_task: from values to a new task, without weights.
        data: what is trained on, or from values to it.
        space: name -> {low, high, step, log} or {choices}, with `only_if` where it counts under a condition; the names
            are those that `make_task` and `data` read.
        trials: finished trials of the study, over all workers, >= 1.
        metric: what is judged, its best value over the validations; the task's own when None.
        direction: whether it is better larger or smaller; the task's own for the task's metric, smaller for losses.
        sampler: class of `optuna.samplers`.
        sampler_options: of the sampler.
        pruner: class of `optuna.pruners`, which stops trials that lag behind; NopPruner for none.
        pruner_options: of the pruner.
        storage: URL of a database, such as sqlite:///study.db; a file in the directory when None.
        study: its name in the storage.
        resume: go on with a study, or join it.
        trainer: of `lightning.Trainer`, such as {"max_epochs": 2}.
        directory: of results; one for each study.
        seed: of every trial and of the sampler.

    Raises:
        InputError: if the space, the study or what is made cannot be used.
    """
    parsed = Space.parse(space)
    make_data = (lambda _: data) if isinstance(data, TextDataModule) else data
    own = {**SILENT, **(trainer or {})}

    def make(values: Mapping[str, Any]) -> Run:
        return Run(make_task(dict(values)), make_data(dict(values)), trainer_factory(own), seed)

    options = StudyOptions(
        trials=trials,
        directory=Path(directory),
        metric=metric,
        direction=direction,
        sampler=sampler,
        sampler_options=sampler_options or {},
        pruner=pruner,
        pruner_options=pruner_options or {},
        storage=storage,
        study=study,
        resume=resume,
        seed=seed,
    )
    return Tuning(search(parsed, make, options), parsed)
