"""Intervals over patients: against their equations, for perfect figures, and in simulations."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import predictions
from scipy import stats
from xraygan_metrics.classification import AUC, Classification

from xraygan.statistics.intervals import (
    auc_interval,
    bootstrap_variance,
    difference_interval,
    mean_interval,
    percentile_interval,
    scaled_share_interval,
    share_interval,
)

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulations of benchmarks/interval_coverage.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import interval_coverage as simulations

    return simulations


def hanley_mcneil(area: float, m: int, n: int) -> float:
    """Newcombe's method 5, written out as it stands in the paper."""
    star = (m + n) / 2 - 1
    return area * (1 - area) * (1 + star * ((1 - area) / (2 - area) + area / (1 + area))) / (m * n)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(1e-6, 1 - 1e-6) | st.sampled_from([0.0, 1.0]),
    st.floats(1e-6, 0.05),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_an_aucs_interval_solves_its_equation(
    value: float, variance: float, positives: int, negatives: int
) -> None:
    low, high = auc_interval(value, variance, positives, negatives)
    assert 0 <= low <= value <= high <= 1
    m = min(positives, negatives)
    ratio = 1.0
    if 0 < value < 1:
        ratio = variance / hanley_mcneil(value, positives, negatives)
        ratio = max(ratio, ((m - 1) * ratio + 10) / (m + 9))
    c = stats.t.ppf(0.975, m + 9)
    for end in (low, high):
        if 1e-6 < end < 1 - 1e-6:
            bound = c**2 * ratio * hanley_mcneil(end, positives, negatives)
            assert (value - end) ** 2 == pytest.approx(bound, rel=1e-4, abs=1e-12)


def test_a_share_of_which_nothing_else_is_known_has_wilsons_interval() -> None:
    p, n = 0.8, 50
    low, high = share_interval(p, p * (1 - p) / n, n)
    c = stats.t.ppf(0.975, n + 9)
    middle, half = p + c**2 / (2 * n), c * math.sqrt(p * (1 - p) / n + c**2 / (4 * n**2))
    expected = ((middle - half) / (1 + c**2 / n), (middle + half) / (1 + c**2 / n))
    assert (low, high) == pytest.approx(expected)
    assert scaled_share_interval(p, p * (1 - p) / n, c) == pytest.approx(expected)


def test_a_figure_that_no_resample_changed_has_the_variance_of_the_formula() -> None:
    assert share_interval(0.5, 0.0, 12) == pytest.approx(share_interval(0.5, 0.25 / 12, 12))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_perfect_figure_is_not_certain(value: float) -> None:
    for low, high in (share_interval(value, 0.0, 12), auc_interval(value, 0.0, 12, 80)):
        inner = high if value == 0 else 1 - low
        assert 0.1 < inner < 0.35
        assert value in (low, high)
    assert percentile_interval(np.full(100, value)) is None


def test_perfect_metrics_are_not_certain() -> None:
    """A classifier that is right on each of 40 test images: its AUC and accuracy were [1, 1]."""
    perfect = predictions(40)
    probs = 0.9 * perfect.labels + 0.05
    perfect.__dict__["probs"] = probs / probs.sum(axis=1, keepdims=True)
    found = {**AUC().compute(perfect), **Classification().compute(perfect)}
    names = [name for name in found if name != "confusion_matrix"]
    assert {"auc/mean", "accuracy", "auc/A", "recall/A"} <= set(names)
    for name in names:
        low, high = found[name].interval
        assert found[name].value == 1.0
        assert 0.5 < low < 0.99, name
        assert high == 1.0
        assert found[name].limits == (0.0, 1.0)


def test_the_mean_adds_the_distances_to_the_ends() -> None:
    source = np.random.default_rng(0)
    shared = source.normal(size=4000)
    resamples = [shared + 0.5 * source.normal(size=4000) for _ in range(3)]
    values, intervals = [0.9, 0.8, 0.7], [(0.8, 0.95), (0.7, 0.86), (0.5, 0.8)]
    low, high = mean_interval(values, intervals, resamples)
    below = above = 0.0
    for i in range(3):
        for j in range(3):
            r = np.corrcoef(resamples[i], resamples[j])[0, 1]
            below += r * (values[i] - intervals[i][0]) * (values[j] - intervals[j][0])
            above += r * (intervals[i][1] - values[i]) * (intervals[j][1] - values[j])
    assert (low, high) == pytest.approx((0.8 - math.sqrt(below) / 3, 0.8 + math.sqrt(above) / 3))
    one = mean_interval(values[:1], intervals[:1], resamples[:1])
    assert one == pytest.approx(intervals[0])
    unknown = mean_interval([1.0, 1.0], [(0.8, 1.0), (0.6, 1.0)], [np.ones(9)] * 2)
    assert unknown == pytest.approx((0.7, 1.0))


def test_the_mean_of_figures_of_few_resamples() -> None:
    """Two resamples say how figures go together; one says nothing, and they are taken as one."""
    values, intervals = [0.5, 0.7], [(0.4, 0.6), (0.6, 0.8)]
    against = [np.array([0.4, 0.6]), np.array([0.8, 0.6])]
    assert mean_interval(values, intervals, against) == pytest.approx((0.6, 0.6))
    one = [np.array([0.4, np.nan]), np.array([0.8, 0.6])]
    assert mean_interval(values, intervals, one) == pytest.approx((0.5, 0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mean_interval(values, intervals, [np.ones(9)] * 2) == pytest.approx((0.5, 0.7))


def test_a_percentile_interval_leaves_out_as_many_on_each_side() -> None:
    values = np.append(np.arange(201.0), np.nan)
    assert percentile_interval(values) == pytest.approx((5.0, 195.0))
    assert percentile_interval(np.array([np.nan])) is None


def test_a_variance_is_that_of_other_patients() -> None:
    assert bootstrap_variance(np.array([1.0, 2.0, 4.0]), 4) == pytest.approx(7 / 3 * 4 / 3)
    assert bootstrap_variance(np.array([1.0, 2.0, np.nan]), 2) == pytest.approx(0.5 * 2)
    assert bootstrap_variance(np.array([1.0, 2.0]), 1) == 0.0


def test_the_variance_of_few_patients_is_not_that_of_their_resamples() -> None:
    source = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        x = source.normal(size=4)
        resamples = x[source.integers(4, size=(200, 4))].mean(axis=1)
        found.append(bootstrap_variance(resamples, 4))
    assert np.mean(found) == pytest.approx(1 / 4, rel=0.05)  # without the factor 3 / 16
    assert bootstrap_variance(np.array([np.nan, 0.5]), 4) == 0.0


# The AUC of 0.98, 5 and 10 positives are where a percentile bootstrap covers 60 to 90 %.
@pytest.mark.parametrize(
    ("positives", "negatives", "truth"), [(5, 100, 0.9), (10, 100, 0.98), (10, 400, 0.9)]
)
def test_intervals_of_an_auc_cover(
    coverage: Any, positives: int, negatives: int, truth: float
) -> None:
    random = np.random.default_rng(0)
    draws = [
        coverage.auc_covered(random, positives, negatives, truth, 0.7, 1.0) for _ in range(200)
    ]
    ours, percentile = np.mean(draws, axis=0)
    assert ours >= 0.93
    assert percentile < 0.9


def test_intervals_of_a_share_cover(coverage: Any) -> None:
    random = np.random.default_rng(0)
    draws = [coverage.share_covered(random, 10, 0.95, 0.5) for _ in range(200)]
    ours, percentile = np.mean(draws, axis=0)
    assert ours >= 0.93
    assert percentile < 0.8


def test_intervals_of_an_average_precision_cover(coverage: Any) -> None:
    import classifier_coverage as simulations

    random = np.random.default_rng(5)
    truth, scores = random.random(400_000) < 0.1, random.standard_normal(400_000)
    scores[truth] += stats.norm.ppf(0.9) * math.sqrt(2)
    measured = simulations.resampled_average_precision(truth, scores, np.ones((1, len(truth))))
    endless = simulations.endless_average_precision(0.9, 1.0, 0.1)
    assert measured[0] == pytest.approx(endless, abs=0.005)
    draws = [
        simulations.average_precision_covered(random, 10, 100, 0.98, 0.7, 0.0) for _ in range(200)
    ]
    ours, percentile = np.mean(draws, axis=0)
    assert ours >= 0.92 and percentile < 0.75


def test_the_interval_of_a_difference_is_zous() -> None:
    random = np.random.default_rng(2)
    first = random.normal(size=500)
    second = 0.6 * first + random.normal(size=500)
    r = float(np.corrcoef(first, second)[0, 1])
    low, high = difference_interval((0.8, 0.7), ((0.7, 0.85), (0.6, 0.9)), (first, second))
    # Zou, Psychological Methods 12 (2007), Eq. 16: l1 = 0.7, u1 = 0.85, l2 = 0.6, u2 = 0.9
    assert low == pytest.approx(0.1 - math.sqrt(0.1**2 + 0.2**2 - 2 * r * 0.1 * 0.2))
    assert high == pytest.approx(0.1 + math.sqrt(0.05**2 + 0.1**2 - 2 * r * 0.05 * 0.1))


def test_the_interval_of_two_groups_that_do_not_differ_contains_0(coverage: Any) -> None:
    import classifier_coverage as simulations

    random = np.random.default_rng(4)
    draws = [
        simulations.group_difference_excludes_zero(random, 5, 50, 0.9, 0.7) for _ in range(200)
    ]
    ours, percentile = np.mean(draws, axis=0)
    assert ours <= 0.06 < percentile
