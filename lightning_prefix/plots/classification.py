"""Which classes are taken for which, and whether probabilities can be trusted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_prefix.errors import InputError
from lightning_prefix.plots.figure import BLUE, COLOURS, GREY, subplots
from lightning_prefix.plots.fonts import use_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_WRITTEN = 15
"""Classes up to which the cells hold numbers."""


class Calibration(NamedTuple):
    """What `calibration` finds; the bins are those that hold something.

    Attributes:
        confidence: mean confidence in each bin.
        accuracy: share that is right in each bin.
        rows: how many there are in each bin.
        error: expected calibration error, in [0, 1].
    """

    confidence: "NDArray[np.float64]"
    accuracy: "NDArray[np.float64]"
    rows: "NDArray[np.int64]"
    error: float


def confusion_matrix(labels: Sequence[int], predicted: Sequence[int], classes: int) -> "NDArray[np.int64]":
    """How many rows of each class were taken for each class: (classes, classes), true ones down.

    Raises:
        InputError: if there are no rows, or not as many labels as predictions.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    _check_rows(labels, predicted)
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels), np.asarray(predicted)), 1)
    return counts


def calibration(confidences: Sequence[float], is_right: Sequence[bool], bins: int = 10) -> Calibration:
    """Expected calibration error (Guo et al. 2017, eq. 3), with bins of equal width.

    ECE = sum over bins of count / rows * |accuracy - mean confidence|.

    Args:
        confidences: probability of each prediction, in [0, 1].
        is_right: whether it was right.
        bins: >= 1.

    Raises:
        InputError: if there are no rows, or not as many confidences as outcomes.

    Example:
        >>> round(calibration([0.9, 0.9, 0.6, 0.6], [True, False, True, True]).error, 3)
        0.4
    """
    _check_rows(confidences, is_right)
    confidence, right = np.asarray(confidences, dtype=np.float64), np.asarray(is_right, dtype=np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # a bin holds its upper edge
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    sums = [np.bincount(place, values, bins)[filled] for values in (confidence, right)]
    means = [values / count[filled] for values in sums]
    error = float(np.abs(means[1] - means[0]) @ count[filled] / len(confidence))
    return Calibration(means[0], means[1], count[filled], error)


def plot_confusion_matrix(
    labels: Sequence[int], predicted: Sequence[int], names: Sequence[str]
) -> "tuple[Figure, Axes]":
    """A table of true and predicted classes, coloured by the share of the true class.

    Args:
        labels: number of the true class of each row.
        predicted: number of the predicted class of each row.
        names: of the classes.

    Raises:
        InputError: if there are no rows.
    """
    counts = confusion_matrix(labels, predicted, len(names))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, 2.6 + 0.55 * len(names))
    figure, axes = subplots(1, 1, side + 1.2, side)
    panel = axes[0, 0]
    image = panel.imshow(shares, cmap=COLOURS, vmin=0, vmax=1)
    ticks = range(len(names))
    panel.set_xticks(ticks, names, rotation=0 if sum(map(len, names)) < 30 else 60, ha="center")
    panel.set_yticks(ticks, names)
    if len(names) <= _WRITTEN:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] < 0.5 else "black"
            panel.text(column, row, str(count), ha="center", va="center", color=colour)
    accuracy = np.trace(counts) / counts.sum()
    panel.set(xlabel="predicted class", ylabel="true class", title=f"accuracy {accuracy:.3f}, {counts.sum()} rows")
    figure.colorbar(image, ax=panel, label="share of the true class's rows")
    use_fonts(figure)
    return figure, panel


def plot_reliability(
    confidences: Sequence[float], is_right: Sequence[bool], bins: int = 10
) -> "tuple[Figure, NDArray[Any]]":
    """Accuracy over confidence, with its 95 % intervals (Wilson), and how many rows have which confidence.

    Args:
        confidences: probability of each prediction, in [0, 1].
        is_right: whether it was right.
        bins: of equal width, >= 1.

    Returns:
        The figure and its axes, (2,).

    Raises:
        InputError: if there are no rows.
    """
    found = calibration(confidences, is_right, bins)
    figure, axes = subplots(2, 1, 5, 5.5, height_ratios=(3, 1), sharex=True)
    upper, lower = axes[:, 0]
    upper.plot((0, 1), (0, 1), color=GREY, linestyle="--", label="perfectly calibrated")
    upper.errorbar(
        found.confidence,
        found.accuracy,
        np.abs(_wilson(found.accuracy, found.rows) - found.accuracy),
        color=BLUE,
        marker="o",
        capsize=3,
        label="predictions, 95 % interval",
    )
    upper.set(ylabel="share that is right", ylim=(-0.02, 1.02))
    upper.set_title(f"expected calibration error {found.error:.3f}, {len(confidences)} predictions")
    upper.legend(loc="lower right")
    lower.hist(confidences, np.linspace(0, 1, bins + 1), color=BLUE, edgecolor="white")
    lower.set(xlabel="confidence (predicted probability)", ylabel="predictions", xlim=(0, 1))
    return figure, axes[:, 0]


def _wilson(share: "NDArray[np.float64]", count: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Lower and upper ends of the 95 % interval (Wilson 1927), (2, bins)."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.stack([middle - half, middle + half])


def _check_rows(first: Sequence[Any], second: Sequence[Any]) -> None:
    if len(first) == 0 or len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values are given; give one or more rows, one value of each.")
