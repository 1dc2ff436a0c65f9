"""Learning curves, from the log of a run."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_prefix.errors import InputError
from lightning_prefix.plots.figure import BLUE, ORANGE, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Metric (`loss`) to split (`train`, `val`) to steps and values."""

_LOG = "metrics.csv"
_SMOOTHED = 20
"""Logged training steps from which a moving average is drawn."""


def read_curves(run: str | Path) -> Curves:
    """What was logged of training and validation.

    Args:
        run: folder of a run, such as lightning_logs/version_0, or its metrics.csv.

    Raises:
        InputError: if there is no log, it is damaged, or it holds no metric of training or validation.
    """
    path = Path(run) / _LOG if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, so there are no curves; give the folder of a run of `fit` that holds {_LOG}. "
            "TensorBoard's logs are not read: for a file fit with --trainer.logger CSVLogger."
        )
    curves: Curves = {}
    with path.open(newline="", encoding="utf-8") as file:
        try:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    split, _, metric = str(name).partition("/")
                    if value and metric and split in ("train", "val"):
                        points = curves.setdefault(metric, {}).setdefault(split, [])
                        points.append((int(row["step"]), float(value)))
        except (KeyError, ValueError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} is no log of CSVLogger, or damaged ({error}); give another run.") from error
    if not curves:
        raise InputError(f"{path} holds no metric of training or validation yet; let `fit` run for some steps.")
    return curves


def plot_learning_curves(run: str | Path, metrics: Sequence[str] | None = None) -> "tuple[Figure, NDArray[Any]]":
    """The loss, and what else was logged, of training and validation over the steps.

    Args:
        run: folder of a run, such as lightning_logs/version_0, or its metrics.csv.
        metrics: to draw, such as ["loss", "accuracy"]; all when None, the loss first.

    Returns:
        The figure and its axes, (rows, columns), one for each metric.

    Raises:
        InputError: if there is no such log or metric.
    """
    curves = read_curves(run)
    names = sorted(curves, key=lambda name: name != "loss") if metrics is None else list(metrics)
    if unknown := [name for name in names if name not in curves]:
        raise InputError(f"metrics {unknown} are asked for; the log has {sorted(curves)}.")
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = subplots(rows, columns, 4.2 * columns, 3.2 * rows)
    for panel, name in zip(axes.flat, names, strict=False):
        for split, points in curves[name].items():
            _draw(panel, split, *np.array(sorted(points)).T)
        panel.set(xlabel="optimizer step", ylabel=name)
        panel.legend()
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    return figure, axes


def _draw(panel: Any, split: str, steps: "NDArray[Any]", values: "NDArray[Any]") -> None:
    if split == "val":
        panel.plot(steps, values, color=ORANGE, marker="o", markersize=4, label="validation")
    elif len(steps) < _SMOOTHED:
        panel.plot(steps, values, color=BLUE, label="training")
    else:
        width = len(steps) // 10
        mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
        panel.plot(steps, values, color=BLUE, alpha=0.25)
        panel.plot(steps[width - 1 :], mean, color=BLUE, label=f"training, mean of {width} logged steps")
