"""Mean and interval of the numbers that the folds of a cross-validation give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lightning_prefix.cross_validation.extra import imported

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What the folds say of one metric.

    Args:
        mean: of the folds.
        std: standard deviation of the folds, with n - 1; NaN for one fold.
        low: lower end of the interval; NaN for one fold.
        high: upper end.
        folds: how many there are.
    """

    mean: float
    std: float
    low: float
    high: float
    folds: int


def estimate(values: Sequence[float], test_per_train: float = 0.0, level: float = 0.95) -> Estimate:
    """Mean, standard deviation and an interval by Student's t with n - 1 degrees of freedom.

    The folds of a k-fold cross-validation share rows to train on, so their mean varies more than s^2 / n says. Nadeau
    and Bengio (2003), "Inference for the Generalization Error", equation 9, take s^2 (1 / n + n_test / n_train).

    Args:
        values: one a fold; with repeats all folds of all repeats.
        test_per_train: n_test / n_train of a fold; 0 where the variance is s^2 / n.
        level: share of such intervals that hold the true mean, in (0, 1).

    Examples:
        >>> found = estimate([0.75, 1.0, 0.5], test_per_train=0.5)
        >>> found.mean, found.std, round(found.high - found.mean, 4)
        (0.75, 0.25, 0.9819)
    """
    count = len(values)
    if count < 2:
        return Estimate(fmean(values) if values else math.nan, math.nan, math.nan, math.nan, count)
    mean, std = fmean(values), stdev(values)
    quantile = float(imported("scipy.stats").t.ppf((1 + level) / 2, count - 1))
    half = quantile * std * math.sqrt(1 / count + test_per_train)
    return Estimate(mean, std, mean - half, mean + half, count)
