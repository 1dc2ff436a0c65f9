"""Plots of a study, drawn by Optuna: its history, parallel coordinates and the importance of the parameters."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.plots.figure import drawing_to_files, import_matplotlib, save

if TYPE_CHECKING:
    import optuna


def draw(study: "optuna.Study", directory: Path) -> list[str]:
    """Write `history.png`, `parallel_coordinates.png` and `importances.png`.

    Importances are PED-ANOVA's (Watanabe et al. 2023), which needs no further library.

    Returns:
        One sentence for each that cannot be drawn.
    """
    import_matplotlib("tune")
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
    with drawing_to_files(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for message in ("Attempting to set identical", "Some regimes for parameter"):  # the first trials are few
            warnings.filterwarnings("ignore", message=message)
        for name, make in makers.items():
            if few and (not values or name == "importances.png"):
                missing.append(f"{name} is not drawn: {few}.")
                continue
            try:
                save(make().figure, directory / name)
            except (ValueError, RuntimeError, ImportError) as error:
                missing.append(f"{name} is not drawn: Optuna says {error}")
    return missing
