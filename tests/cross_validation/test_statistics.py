"""Intervals against numbers that were found in other ways."""

import math

import numpy as np
import pytest
import scipy.special

from lightning_prefix.cross_validation import estimate

VALUES = [0.81, 0.86, 0.79, 0.9, 0.84, 0.88, 0.83, 0.85, 0.8, 0.87]


def test_the_quantile_is_that_of_the_printed_tables():
    """t with 9 degrees of freedom at 0.975 is 2.262 in every table."""
    found = estimate(VALUES)
    assert found.mean == pytest.approx(np.mean(VALUES))
    assert found.std == pytest.approx(np.std(VALUES, ddof=1))
    assert found.high - found.mean == pytest.approx(2.2621571628 * np.std(VALUES, ddof=1) / math.sqrt(10))
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert found.folds == 10


@pytest.mark.parametrize(("folds", "level"), [(2, 0.95), (5, 0.9), (10, 0.99)])
def test_corrected_resampled_interval(folds, level):
    """Nadeau and Bengio: s^2 (1/n + n_test/n_train), which is 1/(k - 1) for k folds."""
    values = VALUES[:folds]
    found = estimate(values, 1 / (folds - 1), level)
    variance = np.var(values, ddof=1) * (1 / folds + 1 / (folds - 1))
    half = scipy.special.stdtrit(folds - 1, 1 - (1 - level) / 2) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_it_holds_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    found = [estimate(row.tolist()) for row in generator.normal(3, 2, (2000, 5))]
    assert np.mean([e.low < 3 < e.high for e in found]) == pytest.approx(0.95, abs=0.015)


def test_one_fold_has_no_interval():
    found = estimate([0.5])
    assert (found.mean, found.folds) == (0.5, 1)
    assert all(map(math.isnan, (found.std, found.low, found.high)))
    assert math.isnan(estimate([]).mean)
