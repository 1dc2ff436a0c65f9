"""What a study leaves in its directory: `trials.csv`, the best config, plots; and its lines in the terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.tuning import plots
from lightning_prefix.tuning.workers import Workers

if TYPE_CHECKING:
    import optuna
    import pandas as pd

_KILLED = "its process was killed"


def frame(study: "optuna.Study") -> "pd.DataFrame":
    """The trials: number, state, value, the parameters by their names, seconds, error."""
    import pandas as pd

    trials = [trial for trial in study.get_trials(deepcopy=False) if "surplus" not in trial.user_attrs]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value,
            **{name: trial.params.get(name) for name in names},
            "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 1),
            "error": trial.user_attrs.get("error", _KILLED if trial.state.name == "FAIL" else None),
        }
        for trial in trials
    ]
    return pd.DataFrame(rows, columns=["number", "state", "value", *names, "seconds", "error"])


def best(study: "optuna.Study") -> "optuna.trial.FrozenTrial | None":
    """The best complete trial, if there is one."""
    return study.best_trial if any(trial.state.name == "COMPLETE" for trial in study.trials) else None


def write(workers: Workers, write_best: Callable[["optuna.trial.FrozenTrial"], None], *, draw: bool) -> list[str]:
    """Write everything anew, one worker at a time; what cannot be drawn is returned, as sentences."""
    with workers.lock:
        text = frame(workers.study).to_csv(index=False)
        replace(workers.directory / "trials.csv", lambda path: path.write_text(text, encoding="utf-8"))
        if (trial := best(workers.study)) is not None:
            write_best(trial)
        return plots.draw(workers.study, workers.directory) if draw else []


def replace(path: Path, write_to: Callable[[Path], Any]) -> None:
    """Write a file in one move, so that nobody reads half of it."""
    half = path.with_name(f".half-{path.name}")
    write_to(half)
    half.replace(path)


def line(workers: Workers, number: int, seconds: float) -> str:
    """What is said of a trial that has ended."""
    trial = workers.study.trials[number]
    value = "" if trial.value is None else f" {trial.value:.4g}"
    leader = best(workers.study)
    so_far = "" if leader is None else f", best {leader.value:.4g} (trial {leader.number})"
    params = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    error = f": {trial.user_attrs['error']}" if "error" in trial.user_attrs else ""
    return f"trial {number}: {trial.state.name}{value}{so_far}, {seconds:.0f} s, {params}{error}"


def shown(value: Any) -> str:
    """A parameter for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(study: "optuna.Study", rows: int = 5) -> str:
    """The best complete trials."""
    trials = frame(study)
    trials = trials[trials["state"] == "COMPLETE"].drop(columns=["state", "error"])
    trials = trials.sort_values("value", ascending=study.direction.name == "MINIMIZE", kind="stable").head(rows)
    return str(trials.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-"))
