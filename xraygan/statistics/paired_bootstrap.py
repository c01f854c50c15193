"""Means of metrics over training seeds, and paired differences between systems.

Runs that were tested on the same images share the resamples of their test patients, whatever their
seeds. So means and differences are computed within each resample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xraygan.rundir.reader import RunFiles
from xraygan.utils.csv_cells import numbers, parse_csv

from .intervals import Interval, mean_interval, percentile_interval, scaled_share_interval
from .seed_variance import SeedVariance

OTHER_PATIENTS = "the runs were tested on other patients, or with other resamples"
ONE_SEED = "one seed does not show the variance of training"
ALIKE = "neither seeds nor patients make a difference, so its variance is not known"


class Resampled:
    """The metrics of a run, and their values in the bootstrap resamples of its test patients.

    Attributes:
        tested: the patient of each tested image; empty if unknown.
    """

    def __init__(self, run: RunFiles) -> None:
        self._metrics: Mapping[str, Any] = run.evaluation.get("metrics", {})
        self._values = run.optional("bootstrap.csv", _number_columns) or {}
        self.tested = tuple(run.optional("predictions.csv", _patients) or ())

    def measured(self, name: str) -> Mapping[str, Any]:
        """The entry of a metric in ``evaluation.json``; empty without one."""
        return self._metrics.get(name) or {}

    def value(self, name: str) -> float | None:
        """The value of a metric; None if it is not a single finite number."""
        value = self.measured(name).get("value")
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def sign(self, name: str) -> int:
        """1 if more of a metric is better, -1 if less is (Brier score)."""
        return -1 if self.measured(name).get("better") == "lower" else 1

    def resamples(self, name: str) -> np.ndarray | None:
        """A metric in each resample, ``(B,)``; None if it does not depend on test patients."""
        return self._values.get(name)


@dataclass(frozen=True)
class Estimate:
    """A mean over training seeds, of a metric or of the difference of two systems.

    Attributes:
        values: one for each seed.
        interval: 95 % over training seeds and test patients; None with a single seed, and for the
            reason in ``why``.
        patients: 95 % over test patients alone, with these seeds; None if the metric does not
            depend on test patients.
        variance: the variance of the mean; None if unknown.
        why: why there is no interval; empty if there is one.
    """

    values: Mapping[int, float]
    interval: Interval | None = None
    patients: Interval | None = None
    variance: SeedVariance | None = None
    why: str = ""

    @property
    def value(self) -> float:
        """The mean; NaN without seeds."""
        return float(np.mean(list(self.values.values()))) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over seeds (S - 1); NaN for fewer than two seeds."""
        values = list(self.values.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def p(self) -> float | None:
        """Two-sided p of no difference; None with a single seed, or if the variance is unknown."""
        if self.interval is None or self.variance is None:
            return None
        return self.variance.p_value(self.value)


def mean_over_seeds(runs: Mapping[int, Resampled], name: str) -> Estimate:
    """The mean of a metric over the runs of one system.

    Args:
        runs: the runs by seed.
    """
    values = {seed: value for seed, run in runs.items() if (value := run.value(name)) is not None}
    used = [runs[seed] for seed in values]
    shared = _shared_resamples(used, name)
    if not values or shared is None:
        return Estimate(values, why=OTHER_PATIENTS if values else "not measured")
    variance = SeedVariance.of([*values.values()], shared or None)
    patients = _share_interval(used, name, shared) or _patients_interval(shared)
    if len(values) == 1:
        return Estimate(values, None, patients, variance, ONE_SEED)
    if not variance.total and patients is None:
        return Estimate(values, None, None, variance, ALIKE)
    mean, width = float(np.mean([*values.values()])), variance.half_width()
    interval = (mean - width, mean + width)
    if _is_share(used, name) and 0 < mean < 1 and variance.total:
        interval = scaled_share_interval(mean, variance.total, variance.critical())
    # With few patients the variance over both may be too small: the interval must not be narrower
    # than the one over patients alone.
    low, high = patients or (mean, mean)
    return Estimate(values, (min(interval[0], low), max(interval[1], high)), patients, variance)


def _is_share(runs: Sequence[Resampled], name: str) -> bool:
    """Whether a metric lies in [0, 1], by its limits or, in runs of former versions, its values."""
    for run in runs:
        measured = run.measured(name)
        if "limits" in measured:
            if measured["limits"] != [0.0, 1.0]:
                return False
            continue
        known = run.resamples(name)
        inside = known is not None and bool(((known >= 0) & (known <= 1) | np.isnan(known)).all())
        if not (inside and 0 <= (run.value(name) or 0.0) <= 1):
            return False
    return True


def _share_interval(
    runs: Sequence[Resampled], name: str, shared: Sequence[np.ndarray]
) -> Interval | None:
    """The interval over patients of the mean, from the runs' own intervals; None without them."""
    intervals = [run.measured(name).get("interval") for run in runs]
    ends = [(float(interval[0]), float(interval[1])) for interval in intervals if interval]
    no_width = any(low == high for low, high in ends)  # of a perfect value, by former versions
    if not shared or no_width or len(ends) < len(runs) or not _is_share(runs, name):
        return None
    return mean_interval([run.value(name) or 0.0 for run in runs], ends, shared)


def difference(
    runs: Mapping[int, Resampled], base: Mapping[int, Resampled], name: str
) -> Estimate | None:
    """A metric of one system minus that of another, paired by seed; None without a common seed.

    Args:
        runs, base: the runs of each system by seed.
    """
    values, pairs = {}, []
    for seed in runs:
        if seed in base:
            value, base_value = runs[seed].value(name), base[seed].value(name)
            if value is not None and base_value is not None:
                values[seed] = value - base_value
                pairs.append((runs[seed], base[seed]))
    if not values:
        return None
    shared = _shared_resamples([run for pair in pairs for run in pair], name)
    if shared is None:
        return Estimate(values, why=OTHER_PATIENTS)
    gaps = [first - second for first, second in zip(shared[::2], shared[1::2], strict=True)]
    variance = SeedVariance.of([*values.values()], gaps or None)
    patients = _patients_interval(gaps)
    if len(values) == 1 or not variance.total:
        return Estimate(values, None, patients, variance, ALIKE if variance.count > 1 else ONE_SEED)
    mean, width = float(np.mean([*values.values()])), variance.half_width()
    return Estimate(values, (mean - width, mean + width), patients, variance)


def _shared_resamples(runs: Sequence[Resampled], name: str) -> list[np.ndarray] | None:
    """The resamples of a metric in each run, if all are of the same patients.

    Empty if no run has resamples, since the metric does not depend on test patients. None if the
    resamples are of different patients or numbers.
    """
    resamples = [run.resamples(name) for run in runs]
    known = [values for values in resamples if values is not None]
    if not known:
        return []
    if len(known) < len(runs) or len({len(values) for values in known}) > 1:
        return None
    if len({run.tested for run in runs}) > 1 or not runs[0].tested:
        return None
    return known


def _patients_interval(resamples: Sequence[np.ndarray]) -> Interval | None:
    """The percentile interval over patients of a mean over the given seeds."""
    return percentile_interval(np.mean(resamples, axis=0)) if len(resamples) else None


def _number_columns(text: str) -> dict[str, np.ndarray]:
    table = parse_csv(text)
    return {name: numbers(table, name, -math.inf, math.inf) for name in table}


def _patients(text: str) -> list[str]:
    table = parse_csv(text)
    if "patient" not in table:
        raise ValueError("no column 'patient'")
    return list(table["patient"])
