"""The interval of a mean over seeds: its limits, its level, its power, and Holm's adjustment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xraygan.statistics.paired_bootstrap import Resampled, mean_over_seeds
from xraygan.statistics.seed_variance import LEVEL, SeedVariance, holm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulations of benchmarks/interval_coverage.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import interval_coverage as simulations

    return simulations


def test_with_training_noise_alone_it_is_students_t() -> None:
    values = [0.90, 0.93, 0.91, 0.95]
    variance = SeedVariance.of(values, None)
    expected = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert variance.half_width() == pytest.approx(expected, rel=1e-3)
    p = stats.ttest_1samp(values, 0.9).pvalue
    assert variance.p_value(np.mean(values) - 0.9) == pytest.approx(p, rel=2e-3)


def test_with_patients_alone_it_is_normal() -> None:
    source = np.random.default_rng(0)
    resamples = source.normal(0.9, 0.02, 50_000)
    variance = SeedVariance.of([0.9], [resamples])
    assert variance.half_width() == pytest.approx(1.96 * 0.02, rel=0.01)
    equal = SeedVariance.of([0.9] * 3, [resamples] * 3)
    assert equal.half_width() == pytest.approx(1.96 * 0.02, rel=0.01)


def test_what_networks_make_of_single_patients_counts_once() -> None:
    """Against a loop: two seeds that err on different patients, and patients hard for both."""
    source = np.random.default_rng(0)
    hard = source.normal(0, 0.02, 20_000)
    resamples = [hard + source.normal(0, 0.03, 20_000) for _ in range(2)]
    found = SeedVariance.of([0.9, 0.96], resamples)
    assert found.patients == pytest.approx(0.02**2, rel=0.05)  # of the bootstrap: + 0.03^2 / 2
    assert found.seeds == pytest.approx(((0.06 / math.sqrt(2)) ** 2) / 2)
    assert (found.count, found.total) == (2, found.patients + found.seeds)


def test_a_resample_without_a_value_is_left_out_of_all_seeds() -> None:
    source = np.random.default_rng(0)
    one, other = source.normal(size=(2, 500))
    whole = SeedVariance.of([0.0, 0.1], [one[:400], other[:400]])
    one[400:450], other[450:] = np.nan, np.nan
    assert SeedVariance.of([0.0, 0.1], [one, other]) == whole


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-8, 1e-2), st.floats(1e-8, 1e-2), st.integers(2, 30), st.floats(1e-4, 0.3))
def test_p_is_the_level_at_which_the_interval_reaches_zero(
    patients: float, seeds: float, count: int, level: float
) -> None:
    variance = SeedVariance(patients, seeds, count)
    width = variance.half_width(level)
    assert variance.p_value(width) == pytest.approx(level, rel=1e-3)
    assert variance.p_value(-width) == variance.p_value(width)
    normal, student = stats.norm.ppf(1 - level / 2), stats.t.ppf(1 - level / 2, count - 1)
    assert normal * 0.999 <= variance.critical(level) <= student * 1.001


def test_nothing_known_is_nothing_found() -> None:
    assert SeedVariance(0.0, 0.0, 1).p_value(0.5) == 1.0
    assert SeedVariance(1e-4, 1e-4, 3).p_value(0.0) == 1.0


def test_power_is_what_a_simulation_finds() -> None:
    truth = SeedVariance(0.004**2, 0.006**2, 4)
    difference = truth.detectable()
    random = np.random.default_rng(0)
    found = 0
    for _ in range(1500):
        value = random.normal(difference, math.sqrt(truth.total))
        drawn = SeedVariance(truth.patients, truth.seeds * random.chisquare(3) / 3, 4)
        found += abs(value) > drawn.half_width()
    assert found / 1500 == pytest.approx(0.8, abs=0.03)


def test_how_many_seeds_find_a_difference() -> None:
    variance = SeedVariance(0.001**2, 0.01**2, 3)
    needed = variance.seeds_for(0.01)
    assert needed is not None and 20 < needed < 40

    def with_seeds(count: int) -> SeedVariance:
        return SeedVariance(variance.patients, variance.seeds * 3 / count, count)

    assert with_seeds(needed).detectable() <= 0.01 < with_seeds(needed - 1).detectable()
    few_patients = SeedVariance(0.01**2, 0.01**2, 3)
    assert few_patients.seeds_for(0.01) is None


def test_holm_is_the_published_example() -> None:
    """Holm (1979): each p times how many are left, and never below a smaller one's."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("seeds", "sd"),
    [(3, 0.0), (3, 0.007), (5, 0.02)],
)
def test_differences_that_are_none_are_found_in_5_of_100(
    coverage: Any, seeds: int, sd: float
) -> None:
    """With seeds that differ by 0.007 AUC, an interval over patients alone left out 0 in 33 %."""
    random = np.random.default_rng(seeds)
    world = coverage.World(seeds, sd, own=0.1, of_system=0.0)
    draws = [coverage.difference_excludes_zero(random, world) for _ in range(200)]
    ours, patients_alone = np.mean(draws, axis=0)
    assert ours <= 0.08
    if sd >= 0.007:
        assert patients_alone > 0.25
        assert ours >= 0.02
    assert LEVEL == 0.05


class Measured(Resampled):
    """A run's figure of ``auc``, as its files would have it."""

    def __init__(self, value: float, interval: list[float], resamples: np.ndarray) -> None:
        about = {"value": value, "interval": interval, "limits": [0.0, 1.0]}
        self._metrics = {"auc": about}
        self._values = {"auc": resamples}
        self.tested = ("a", "b")


def test_seeds_do_not_make_certain_what_patients_leave_open() -> None:
    """Three seeds that agree, on five positive patients: each run's own interval is wide."""
    hard = np.random.default_rng(0).normal(0, 0.01, 400)
    runs = {seed: Measured(0.95, [0.7, 0.995], 0.95 + hard) for seed in range(3)}
    found = mean_over_seeds(runs, "auc")
    assert found.patients == pytest.approx((0.7, 0.995))
    assert found.interval == found.patients  # it was 0.92 to 0.97
    perfect = {seed: Measured(1.0, [0.8, 1.0], np.ones(400)) for seed in range(3)}
    assert mean_over_seeds(perfect, "auc").interval == pytest.approx((0.8, 1.0))


@pytest.mark.parametrize(("positive", "truth", "sd"), [(5, 0.9, 0.0), (10, 0.98, 0.003)])
def test_the_mean_over_seeds_covers_where_patients_are_few(
    coverage: Any, positive: int, truth: float, sd: float
) -> None:
    """The variance that seeds and resamples show is too small there: 80 to 88 % were covered."""
    random = np.random.default_rng(positive)
    world = coverage.World(3, sd, truth, 0.1, 0.0, positive, 100)
    draws = [coverage.mean_covered(random, world) for _ in range(200)]
    ours, patients_alone = np.mean(draws, axis=0)
    assert ours >= 0.93
    assert patients_alone < 0.9
