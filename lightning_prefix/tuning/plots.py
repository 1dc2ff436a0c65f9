"""Plots of a study, drawn by Optuna: its history, parallel coordinates and the importance of the parameters."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure


def import_matplotlib() -> None:
    """Check that plots can be drawn.

    Raises:
        InputError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"plots need the package matplotlib, which cannot be imported ({error}). Run: pip install "
            "'lightning-prefix[tune]'"
        ) from error


def draw(study: "optuna.Study", directory: Path) -> list[str]:
    """Write `history.png`, `parallel_coordinates.png` and `importances.png`.

    Importances are PED-ANOVA's (Watanabe et al. 2023), which needs no further library.

    Returns:
        One sentence for each that cannot be drawn.
    """
    import_matplotlib()
    import matplotlib.pyplot as plt
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import matplotlib as charts

    values = {trial.value for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"}
    few = "no trial is complete" if not values else "the complete trials have one value" if len(values) < 2 else ""
    makers: dict[str, Callable[[], Any]] = {
        "history.png": lambda: charts.plot_optimization_history(study),
        "parallel_coordinates.png": lambda: charts.plot_parallel_coordinate(study),
        "importances.png": lambda: charts.plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator()),
    }
    missing = []
    backend = plt.get_backend()
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for message in ("Attempting to set identical", "Some regimes for parameter"):  # the first trials are few
            warnings.filterwarnings("ignore", message=message)
        plt.switch_backend("agg")
        try:
            for name, make in makers.items():
                if few and (not values or name == "importances.png"):
                    missing.append(f"{name} is not drawn: {few}.")
                    continue
                try:
                    save(make().figure, directory / name)
                except (ValueError, RuntimeError, ImportError) as error:
                    missing.append(f"{name} is not drawn: Optuna says {error}")
                finally:
                    plt.close("all")
        finally:
            plt.switch_backend(backend)
    return missing


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in one move."""
    half = path.with_name(f".half-{path.name}")
    figure.savefig(half, dpi=100, bbox_inches="tight")
    half.replace(path)
