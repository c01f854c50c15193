"""The interval of a mean over seeds: its limits, its level, its power, and Holm's adjustment."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

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


def test_the_parts_of_a_variance_are_those_of_a_loop() -> None:
    resamples = [[0.1, 0.4, 0.2, 0.9], [0.3, 0.2, 0.5, 0.8], [0.6, 0.5, 0.1, 0.7]]
    found = SeedVariance.of([0.9, 0.96, 0.93], [np.array(one) for one in resamples])
    means = [sum(column) / 3 for column in zip(*resamples, strict=True)]
    own = sum(
        statistics.variance([x - mean for x, mean in zip(one, means, strict=True)])
        for one in resamples
    )
    assert found.patients == pytest.approx(statistics.variance(means) - own / 2 / 3)
    assert found.seeds == pytest.approx(0.03**2 / 3)
    apart = SeedVariance.of([0.9, 0.96], [np.array([0.1, 0.3]), np.array([0.3, 0.1])])
    assert (apart.patients, apart.seeds) == (0.0, pytest.approx(0.06**2 / 4))
    two = SeedVariance.of([0.9], [np.array([0.1, 0.3])])
    assert (two.patients, two.seeds, two.count) == (pytest.approx(0.02), 0.0, 1)
    one = SeedVariance.of([0.9, 0.96], [np.array([0.1]), np.array([0.3])])
    assert (one.patients, one.seeds, one.count) == (0.0, pytest.approx(0.06**2 / 4), 2)


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


@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.9, 2), (0.1, 8), (0.001, 2)])
def test_the_quantile_lies_between_welchs_and_behrens_and_fishers(
    share: float, count: int, level: float
) -> None:
    """Theirs from the probability that the sum of both lies within, integrated over Z."""
    welch = stats.t.ppf(1 - level / 2, (count - 1) / share**2)

    z = np.linspace(-9, 9, 40_001)
    density = stats.norm.pdf(z) / stats.norm.pdf(z).sum()

    def within(q: float) -> float:
        upper, lower = ((end - math.sqrt(1 - share) * z) / math.sqrt(share) for end in (q, -q))
        inside = stats.t.cdf(upper, count - 1) - stats.t.cdf(lower, count - 1)
        return float(density @ inside)

    quantile = brentq(lambda q: within(q) - (1 - level), 0.0, 60.0, xtol=1e-6)
    found = SeedVariance(1 - share, share, count).critical(level)
    assert found == pytest.approx(math.sqrt(welch * quantile), rel=2e-5)


def test_training_that_hardly_varies_leaves_the_normal_quantile() -> None:
    assert SeedVariance(1.0, 1e-5, 20).critical() == pytest.approx(1.959964, rel=1e-3)
    assert SeedVariance(1.0, 0.0, 3).critical(0.01) == pytest.approx(2.575829)
    assert SeedVariance(1.0, 0.5, 1).critical() == pytest.approx(1.959964)
    assert SeedVariance(1.0, 0.5, 1).half_width() == pytest.approx(1.959964 * math.sqrt(1.5))


def test_p_ends_where_no_level_is_reached() -> None:
    variance = SeedVariance(1e-4, 1e-4, 3)
    assert variance.p_value(1e6) == variance.p_value(-1e6) == 1e-9
    assert variance.p_value(1.0) < 0.01  # also of a difference of exactly one
    assert SeedVariance(1e-4, 0.0, 1).p_value(1e-15) == 1.0


def test_the_difference_that_is_found_of_patients_alone() -> None:
    """The quantiles of the level and of the power, as textbooks have it."""
    variance = SeedVariance(0.01**2, 0.0, 1)
    assert variance.detectable() == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-4)
    assert variance.detectable(0.01, 0.9) == pytest.approx(0.01 * (2.575829 + 1.281552), rel=1e-4)
    assert SeedVariance(0.0, 0.0, 3).detectable() == 0.0
    large = SeedVariance(50.0**2, 0.0, 1)  # not a share, but a distance of images
    assert large.detectable() == pytest.approx(50 * (1.959964 + 0.841621), rel=1e-4)
    alone = SeedVariance(0.01**2 / 2, 0.01**2 / 2, 1)  # one seed shows no spread of its own
    assert alone.detectable() == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-4)


@pytest.mark.parametrize(("level", "count"), [(0.05, 3), (0.3, 3), (0.05, 2)])
def test_power_is_the_mean_over_what_other_seeds_would_show(level: float, count: int) -> None:
    variance = SeedVariance(1e-4, 2e-4, count)
    difference, spread, found = variance.detectable(level), math.sqrt(3e-4), []
    for i in range(40):
        drawn = stats.chi2.isf((i + 0.5) / 40, count - 1) / (count - 1)
        width = SeedVariance(1e-4, 2e-4 * drawn, count).half_width(level)
        found += [stats.norm.cdf((x - width) / spread) for x in (difference, -difference)]
    assert sum(found) / 40 == pytest.approx(0.8, rel=1e-6)


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
    at_a_level = variance.seeds_for(0.01, 0.3)
    assert at_a_level is not None and at_a_level < needed
    assert with_seeds(at_a_level).detectable(0.3) <= 0.01
    assert with_seeds(at_a_level - 1).detectable(0.3) > 0.01
    assert variance.seeds_for(1.0) == 2
    for difference in (0.013, 0.02):
        enough = [n for n in range(2, 20) if with_seeds(n).detectable() <= difference]
        assert variance.seeds_for(difference) == enough[0]
    few_patients = SeedVariance(0.01**2, 0.01**2, 3)
    assert few_patients.seeds_for(0.01) is None


def test_holm_is_the_published_example() -> None:
    """Holm (1979): each p times how many are left, and never below a smaller one's."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == holm([0.6, 0.7]) == [1.0, 1.0]
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
