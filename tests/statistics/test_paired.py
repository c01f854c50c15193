"""Means over seeds and paired differences: as they are defined, and where they are unknown."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xraygan.statistics.intervals import mean_interval, percentile_interval, scaled_share_interval
from xraygan.statistics.paired_bootstrap import (
    ALIKE,
    ONE_SEED,
    OTHER_PATIENTS,
    Estimate,
    Resampled,
    difference,
    mean_over_seeds,
)
from xraygan.statistics.seed_variance import SeedVariance

HARD = np.random.default_rng(0).normal(0, 0.01, 60)
SHARE = [0.0, 1.0]


class Files:
    """A run's files, as far as they are read here."""

    def __init__(self, metrics: dict[str, Any], **texts: str) -> None:
        self.evaluation = {"metrics": metrics} if metrics else {}
        self._texts = texts

    def optional(self, name: str, read: Callable[[str], Any]) -> Any:
        text = self._texts.get(name.removesuffix(".csv"))
        return None if text is None else read(text)


def run(value: Any, resamples: Any = None, patients: str = "a b b", **about: Any) -> Resampled:
    """A run that measured ``m``."""
    texts = {"predictions": "\n".join(["patient", *patients.split()]) + "\n"} if patients else {}
    if resamples is not None:
        out = io.StringIO()
        np.savetxt(out, resamples, header="m", comments="", fmt="%.17g")
        texts["bootstrap"] = out.getvalue().replace("nan", '""')
    return Resampled(Files({"m": {"value": value, **about}}, **texts))  # type: ignore[arg-type]


def seeds(*runs: Resampled) -> dict[int, Resampled]:
    return {3 + i: one for i, one in enumerate(runs)}


# -- what a run measured ---------------------------------------------------------------------------


def test_what_a_run_measured_is_read_from_its_files() -> None:
    found = run(0.5, [0.25, np.nan, 0.75], "a b b")
    assert (found.value("m"), found.value("n"), found.tested) == (0.5, None, ("a", "b", "b"))
    assert found.measured("m") == {"value": 0.5} and found.measured("n") == {}
    resamples = found.resamples("m")
    assert resamples is not None and found.resamples("n") is None
    np.testing.assert_array_equal(resamples, [0.25, np.nan, 0.75])
    wide = run(-1.0, [-1e300, 1e300]).resamples("m")
    assert wide is not None and wide.tolist() == [-1e300, 1e300]


def test_a_run_without_files_measured_nothing() -> None:
    found = Resampled(Files({}))  # type: ignore[arg-type]
    assert (found.value("m"), found.resamples("m"), found.tested) == (None, None, ())
    with pytest.raises(ValueError, match=r"^no column 'patient'$"):
        Resampled(Files({}, predictions="image\n1\n"))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "0.5", math.nan, math.inf, [0.5]])
def test_what_is_no_finite_number_is_not_measured(value: Any) -> None:
    assert run(value).value("m") is None
    assert mean_over_seeds(seeds(run(value)), "m") == Estimate({}, why="not measured")
    assert run(1).value("m") == 1.0


# -- an estimate -----------------------------------------------------------------------------------


def test_an_estimate_is_the_mean_of_its_seeds() -> None:
    variance = SeedVariance(1e-4, 1e-4, 2)
    found = Estimate({0: 0.1, 5: 0.4}, (0.0, 0.5), None, variance)
    assert found.value == pytest.approx(0.25)
    assert found.sd == pytest.approx(0.3 / math.sqrt(2))
    assert found.p == variance.p_value(found.value)
    assert math.isnan(Estimate({}).value) and math.isnan(Estimate({0: 0.1}).sd)
    assert Estimate({0: 0.1}, None, None, variance).p is None
    assert Estimate({0: 0.1}, (0.0, 0.5)).p is None


# -- means -----------------------------------------------------------------------------------------


def test_a_mean_of_what_is_no_share_is_symmetric() -> None:
    values = [2.0, 2.3, 2.1]
    resamples = [v + HARD * (1 + i) for i, v in enumerate(values)]
    runs = [run(v, r, limits=[0.0, 5.0]) for v, r in zip(values, resamples, strict=True)]
    found = mean_over_seeds(seeds(*runs), "m")
    variance = SeedVariance.of(values, resamples)
    assert found.values == dict(zip((3, 4, 5), values, strict=True))
    assert found.variance == variance and found.why == ""
    mean, width = np.mean(values), variance.half_width()
    assert found.interval == pytest.approx((mean - width, mean + width))
    assert found.patients == pytest.approx(percentile_interval(np.mean(resamples, axis=0)))


@pytest.mark.parametrize("known", [True, False])
def test_a_mean_of_shares_stays_within_them(known: bool) -> None:
    """Also where a former version did not write that they are shares."""
    values = [0.90, 0.96]
    resamples = [v + HARD for v in values]
    limits = {"limits": SHARE} if known else {}
    runs = [run(v, r, **limits) for v, r in zip(values, resamples, strict=True)]
    found, variance = mean_over_seeds(seeds(*runs), "m"), SeedVariance.of(values, resamples)
    expected = scaled_share_interval(0.93, variance.total, variance.critical())
    assert found.interval == pytest.approx(expected)
    symmetric = 0.93 + variance.half_width()
    assert found.interval is not None and found.interval[1] < symmetric


@pytest.mark.parametrize(
    ("about", "resamples"),
    [
        ({"limits": [-1.0, 1.0]}, HARD + 0.9),
        ({"limits": [0.0, 2.0]}, HARD + 0.9),
        ({}, np.append(HARD + 0.9, 1.001)),  # of a former version
        ({}, np.append(HARD + 0.9, -0.001)),
        ({}, None),
    ],
)
def test_what_is_not_known_to_be_a_share_is_none(about: dict, resamples: Any) -> None:
    runs = seeds(run(0.9, resamples, **about), run(0.96, resamples, **about))
    found = mean_over_seeds(runs, "m")
    assert found.variance is not None
    width = found.variance.half_width()
    assert found.interval == pytest.approx((0.93 - width, 0.93 + width))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mean_at_the_end_of_its_range_has_room_on_both_sides(value: float) -> None:
    """Resamples may vary where the figures do not."""
    resamples = np.clip(0.5 + HARD * 20, 0, 1)
    found = mean_over_seeds(seeds(*[run(value, resamples, limits=SHARE)] * 2), "m")
    assert found.variance is not None and found.patients is not None
    width = found.variance.half_width()
    low, high = found.patients
    assert found.interval == pytest.approx((min(value - width, low), max(value + width, high)))
    ends = [[0.0, 0.3], [0.1, 0.5]]
    runs = [run(v, resamples, limits=SHARE, interval=end)
            for v, end in zip((0.0, 0.4), ends, strict=True)]  # fmt: skip
    own = mean_interval([0.0, 0.4], [(0.0, 0.3), (0.1, 0.5)], [resamples] * 2)
    assert mean_over_seeds(seeds(*runs), "m").patients == pytest.approx(own)


def test_all_runs_have_to_say_that_a_figure_is_a_share() -> None:
    share, wide = run(0.9, 0.9 + HARD, limits=SHARE), run(0.96, 0.96 + HARD, limits=[0.0, 2.0])
    inside, outside = run(0.96, 0.9 + HARD), run(1.5, 0.9 + HARD)
    small = run(0.2, 0.9 + HARD, limits=SHARE)  # so that the mean itself may be a share
    for first, other in ((share, wide), (share, outside), (small, outside)):
        found = mean_over_seeds(seeds(first, other), "m")
        assert found.variance is not None and found.patients is not None
        mean, width = found.value, found.variance.half_width()
        low, high = found.patients
        assert found.interval == pytest.approx((min(mean - width, low), max(mean + width, high)))
    for value in (0.96, 0.0):
        inside = run(value, 0.9 + HARD)
        found = mean_over_seeds(seeds(share, inside), "m")
        assert found.variance is not None and found.patients is not None
        critical = found.variance.critical()
        low, high = scaled_share_interval(found.value, found.variance.total, critical)
        assert found.interval == pytest.approx(
            (min(low, found.patients[0]), max(high, found.patients[1]))
        )


def test_the_ends_of_a_share_are_shares() -> None:
    """Of a former version: 0 and 1 themselves, and a resample without a value, are allowed."""
    ends = np.array([0.0, 1.0, np.nan, 0.5])
    found = mean_over_seeds(seeds(run(0.2, ends), run(1.0, ends)), "m")
    variance = SeedVariance.of([0.2, 1.0], [ends, ends])
    share = scaled_share_interval(0.6, variance.total, variance.critical())
    assert found.patients is not None
    low, high = found.patients
    assert found.interval == pytest.approx((min(share[0], low), max(share[1], high)))


def test_the_runs_own_intervals_are_those_of_patients() -> None:
    """And none of a perfect figure, of a run that has none, or of what is no share."""
    values, ends = [0.9, 0.8], [[0.7, 0.95], [0.5, 0.9]]
    resamples = [v + HARD * (1 - 2 * i) for i, v in enumerate(values)]

    def of(**changes: Any) -> Any:
        about = [{"limits": SHARE, "interval": end, **changes} for end in ends]
        runs = [run(v, r, **a) for v, r, a in zip(values, resamples, about, strict=True)]
        return mean_over_seeds(seeds(*runs), "m")

    own = mean_interval(values, [(0.7, 0.95), (0.5, 0.9)], resamples)
    resampled = percentile_interval(np.mean(resamples, axis=0))
    assert of().patients == pytest.approx(own)
    for changes in ({"interval": None}, {"interval": [0.9, 0.9]}, {"limits": [0.0, 2.0]}):
        assert of(**changes).patients == pytest.approx(resampled), changes
    ends[1] = None  # type: ignore[call-overload]
    assert of().patients == pytest.approx(resampled)
    ends[1] = [0.5, 0.9]
    found, variance = of(), SeedVariance.of(values, resamples)
    share = scaled_share_interval(0.85, variance.total, variance.critical())
    assert found.interval == pytest.approx((min(share[0], own[0]), max(share[1], own[1])))


def test_without_resamples_a_mean_is_over_seeds_alone() -> None:
    runs = seeds(run(0.4, limits=SHARE, interval=[0.1, 0.9]), run(0.6, limits=SHARE))
    found, variance = mean_over_seeds(runs, "m"), SeedVariance.of([0.4, 0.6], None)
    assert (found.patients, found.variance) == (None, variance)
    share = scaled_share_interval(0.5, variance.total, variance.critical())
    assert found.interval == pytest.approx(share)


def test_one_seed_says_nothing_of_training() -> None:
    found = mean_over_seeds(seeds(run(0.9, 0.9 + HARD)), "m")
    assert (found.values, found.interval, found.why) == ({3: 0.9}, None, ONE_SEED)
    assert found.patients == pytest.approx(percentile_interval(0.9 + HARD))
    assert found.variance == SeedVariance.of([0.9], [0.9 + HARD])


def test_seeds_that_do_not_differ_and_no_patients_say_nothing() -> None:
    found = mean_over_seeds(seeds(run(0.9), run(0.9)), "m")
    assert (found.interval, found.patients, found.why) == (None, None, ALIKE)
    assert found.values == {3: 0.9, 4: 0.9}
    assert found.variance == SeedVariance(0.0, 0.0, 2)
    ends = {"limits": SHARE, "interval": [0.8, 1.0]}
    perfect = mean_over_seeds(seeds(*[run(1.0, np.ones(9), **ends)] * 2), "m")
    assert perfect.interval == perfect.patients == pytest.approx((0.8, 1.0))
    alike = mean_over_seeds(seeds(*[run(0.9, np.full(9, 0.9), **ends)] * 2), "m")
    assert alike.interval == pytest.approx((0.8, 1.0))


def test_a_seed_that_measured_nothing_is_left_out() -> None:
    runs = seeds(run(2.0, 2 + HARD), run(None), run(2.2, 2.2 + HARD))
    found = mean_over_seeds(runs, "m")
    assert found.values == {3: 2.0, 5: 2.2}
    assert found.variance == SeedVariance.of([2.0, 2.2], [2 + HARD, 2.2 + HARD])


@pytest.mark.parametrize(
    "other",
    [
        run(0.8, 0.8 + HARD, "a b c"),
        run(0.8, 0.8 + HARD[1:]),
        run(0.8),
        run(0.8, 0.8 + HARD, ""),
    ],
)
def test_other_patients_or_resamples_have_no_common_interval(other: Resampled) -> None:
    ours = run(0.9, 0.9 + HARD, " ".join(other.tested) if not other.tested else "a b b")
    values = {3: 0.9, 4: 0.8}
    assert mean_over_seeds(seeds(ours, other), "m") == Estimate(values, why=OTHER_PATIENTS)
    found = difference({1: ours}, {1: other}, "m")
    assert found is not None and found.why == OTHER_PATIENTS and found.interval is None
    assert found.values == pytest.approx({1: 0.1})


# -- differences -----------------------------------------------------------------------------------


def test_a_difference_is_paired_by_seed() -> None:
    ours = {1: run(0.9, 0.9 + HARD), 2: run(0.8, 0.8 - HARD), 4: run(0.3), 5: run(None)}
    theirs = {2: run(0.5, 0.5 + 2 * HARD), 1: run(0.7, 0.7 + 3 * HARD), 5: run(0.7), 6: run(0.1)}
    found = difference(ours, theirs, "m")
    assert found is not None and found.values == pytest.approx({1: 0.2, 2: 0.3})
    gaps = [0.2 - 2 * HARD, 0.3 - 3 * HARD]
    variance = SeedVariance.of([0.2, 0.3], gaps)
    assert found.variance is not None and found.why == ""
    assert found.variance.total == pytest.approx(variance.total)
    width = variance.half_width()
    assert found.interval == pytest.approx((0.25 - width, 0.25 + width))
    assert found.patients == pytest.approx(percentile_interval(np.mean(gaps, axis=0)))
    assert difference(ours, {7: run(0.1)}, "m") is None
    assert difference({5: run(None)}, {5: run(0.1)}, "m") is None


def test_a_difference_of_one_seed_or_of_none_that_vary_has_no_interval() -> None:
    one = difference({1: run(0.9, 0.9 + HARD)}, {1: run(0.7, 0.7 - HARD)}, "m")
    assert one is not None and (one.interval, one.why) == (None, ONE_SEED)
    assert one.patients == pytest.approx(percentile_interval(0.2 + 2 * HARD))
    assert one.variance is not None and one.variance.count == 1
    runs = {1: run(0.75), 2: run(0.75)}
    alike = difference(runs, {1: run(0.5), 2: run(0.5)}, "m")
    assert alike == Estimate({1: 0.25, 2: 0.25}, None, None, SeedVariance(0.0, 0.0, 2), ALIKE)
    known = difference(runs, {1: run(0.5), 2: run(0.25)}, "m")
    assert known is not None and known.interval is not None and known.patients is None
