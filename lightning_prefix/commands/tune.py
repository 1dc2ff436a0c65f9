"""The command `tune`: search the best values of a config of `fit`."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.commands.experiment import ExperimentCLI
from lightning_prefix.commands.space import check_space, read_space, with_values
from lightning_prefix.tuning import results
from lightning_prefix.tuning.function import SILENT
from lightning_prefix.tuning.search import Run, StudyOptions, search
from lightning_prefix.tuning.space import Space

if TYPE_CHECKING:
    import optuna

GIVEN = {"cli"}
"""Arguments that are no options."""


def tune(
    cli: ExperimentCLI,
    space: dict[str, Any] | str | None = None,
    trials: int = 20,
    directory: str = "tuning",
    metric: str | None = None,
    direction: Literal["maximize", "minimize"] | None = None,
    sampler: str = "TPESampler",
    sampler_options: dict[str, Any] | None = None,
    pruner: str = "MedianPruner",
    pruner_options: dict[str, Any] | None = None,
    storage: str | None = None,
    study: str = "tuning",
    resume: bool = False,
) -> None:
    """Search the best values of a config of `fit`, with Optuna.

    Args:
        cli: what was parsed.
        space: a YAML file such as configs/tune/flat.yaml, or its content: key as on the command line of `fit` ->
            {low, high, step, log} or {choices: [...]}, each with only_if: {key: values} where it counts under a
            condition. The default space of the config's prefix when null.
        trials: finished trials (complete, pruned or failed) of the study, over all workers, >= 1.
        directory: of results: trials.csv, best.yaml for `fit`, plots, and trial_N with metrics and checkpoints.
        metric: what is judged, its best value over the validations; the task's own when null.
        direction: whether it is better larger or smaller; the task's own for its metric, minimize for losses.
        sampler: class of optuna.samplers.
        sampler_options: of the sampler, such as {n_startup_trials: 5}; its seed is seed_everything.
        pruner: class of optuna.pruners, which stops trials that lag behind; NopPruner for none.
        pruner_options: of the pruner.
        storage: URL of a database, such as sqlite:///study.db, which several machines may share; a file in the
            directory, which several processes may share, when null.
        study: its name in the storage.
        resume: go on with a study, after a kill too, or join it with one more worker.
    """
    base = cli.run_config()
    parsed = read_space(space, base)
    check_space(cli, base, parsed)
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
        seed=cli.seed,
    )

    def make(values: Mapping[str, Any]) -> Run:
        config = with_values(cli, base, values)
        silent = {name: value for name, value in SILENT.items() if config.trainer.get(name) is None}
        return Run(*cli.make(config), cli.trainer_factory(config), int(config.seed_everything), silent)

    def write_best(trial: "optuna.trial.FrozenTrial") -> None:
        text = _best_config(cli, base, parsed, trial, options)
        results.replace(options.directory / "best.yaml", lambda path: path.write_text(text, encoding="utf-8"))

    _say(search(parsed, make, options, write_best), options)


def _best_config(
    cli: ExperimentCLI,
    base: Mapping[str, Any],
    space: Space,
    trial: "optuna.trial.FrozenTrial",
    options: StudyOptions,
) -> str:
    config = cli.run_config(with_values(cli, base, space.values(trial.params)))
    metric = trial.user_attrs["metric"]
    return (
        f"# Trial {trial.number}, the best of the study {options.study}: {metric} {trial.value!r}.\n"
        f"# {_fit(options)}\n{yaml.safe_dump(config, sort_keys=False)}"
    )


def _fit(options: StudyOptions) -> str:
    config = shlex.quote(str(Path(os.path.relpath(options.directory)) / "best.yaml"))
    return f"python -m lightning_prefix fit --config {config}"


def _say(study: "optuna.Study", options: StudyOptions) -> None:
    if results.best(study) is None:
        rank_zero_info(f"no trial is complete; see {options.directory / 'trials.csv'}.")
        return
    lines = [
        results.table(study),
        f"\ntrials     {options.directory / 'trials.csv'}",
        f"config     {options.directory / 'best.yaml'}",
        "\nnext:",
        f"  {_fit(options)}",
    ]
    rank_zero_info("\n" + "\n".join(lines))


def run(args: list[str]) -> None:
    """Run the command with these words."""
    cli = ExperimentCLI("tune", tune, args, GIVEN)
    tune(cli, **cli.options)
