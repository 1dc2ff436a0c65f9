"""How a number of each row changes with the length of its source."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_prefix.errors import InputError
from lightning_prefix.plots.figure import BLUE, ORANGE, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class LengthBins(NamedTuple):
    """What `by_length` finds, for each bin.

    Attributes:
        length: mean length.
        mean: of the values.
        half_interval: 1.96 standard errors of the mean; no number where there is one value.
        rows: how many there are.
    """

    length: "NDArray[np.float64]"
    mean: "NDArray[np.float64]"
    half_interval: "NDArray[np.float64]"
    rows: "NDArray[np.int64]"


def by_length(lengths: Sequence[int], values: Sequence[float], bins: int = 6) -> LengthBins:
    """Means of the values in bins of the lengths that hold about equally many rows.

    Args:
        lengths: of each row.
        values: of each row.
        bins: >= 1; fewer where lengths recur.

    Raises:
        InputError: if there are no rows, or not as many lengths as values.

    Example:
        >>> by_length([1, 1, 5, 7], [2.0, 4.0, 1.0, 1.0], bins=2).mean.tolist()
        [3.0, 1.0]
    """
    if len(lengths) == 0 or len(lengths) != len(values):
        raise InputError(f"{len(lengths)} lengths and {len(values)} values are given; give one or more rows.")
    length, value = np.asarray(lengths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    edges = np.unique(np.quantile(length, np.linspace(0, 1, bins + 1)))[1:-1]
    place = np.searchsorted(edges, length, side="left" if len(edges) else "right")
    groups = [place == number for number in np.unique(place)]
    count = np.array([group.sum() for group in groups])
    deviation = np.array([value[group].std(ddof=1) if group.sum() > 1 else np.nan for group in groups])
    return LengthBins(
        np.array([length[group].mean() for group in groups]),
        np.array([value[group].mean() for group in groups]),
        1.96 * deviation / np.sqrt(count),
        count,
    )


def plot_by_length(lengths: Sequence[int], values: Sequence[float], name: str, bins: int = 6) -> "tuple[Figure, Axes]":
    """A value over the length of the source: each row, and the mean in bins with its 95 % interval.

    Args:
        lengths: of the source of each row, tokens.
        values: of each row.
        name: of the values, with their unit.
        bins: >= 1, with about equally many rows each.

    Raises:
        InputError: if there are no rows.
    """
    found = by_length(lengths, values, bins)
    figure, axes = subplots(1, 1, 6, 4)
    panel = axes[0, 0]
    panel.scatter(lengths, values, s=16, color=BLUE, alpha=0.4, linewidths=0, label="one row")
    label = f"mean of about {round(found.rows.mean())} rows, 95 % interval"
    panel.errorbar(found.length, found.mean, found.half_interval, color=ORANGE, marker="o", capsize=3, label=label)
    panel.set(xlabel="length of the source (tokens)", ylabel=name)
    panel.set_title(f"mean {np.mean(values):.3g}, {len(values)} rows")
    panel.legend()
    return figure, panel
