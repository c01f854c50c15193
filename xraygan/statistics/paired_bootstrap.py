"""What runs measured, as a mean over their training seeds and as differences between systems.

Runs that were tested on the same images share the resamples of their test patients, whatever their
seeds, so that means and differences can be taken within each resample.
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
ONE_SEED = "one seed says nothing of training"
ALIKE = "neither seeds nor patients make a difference, so nothing is known of how it varies"


class Resampled:
    """A run's metrics, and each in the bootstrap resamples of its test patients.

    Attributes:
        tested: whose images it was tested on, image by image; empty where that is not known.
    """

    def __init__(self, run: RunFiles) -> None:
        self._metrics: Mapping[str, Any] = run.evaluation.get("metrics", {})
        self._values = run.optional("bootstrap.csv", _numbers) or {}
        self.tested = tuple(run.optional("predictions.csv", _patients) or ())

    def measured(self, name: str) -> Mapping[str, Any]:
        """What ``evaluation.json`` has of a metric; empty where it has none."""
        return self._metrics.get(name) or {}

    def value(self, name: str) -> float | None:
        """A metric; None where it has no finite value, or is no single number."""
        value = self.measured(name).get("value")
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def resamples(self, name: str) -> np.ndarray | None:
        """A metric in each resample, ``(B,)``; None where test patients do not enter it."""
        return self._values.get(name)


@dataclass(frozen=True)
class Estimate:
    """A mean over training seeds, of a metric or of the difference of two systems.

    Attributes:
        values: one a seed.
        interval: 95 % over training seeds and test patients; None of a single seed, which says
            nothing of training, and where ``why`` says so.
        patients: 95 % over test patients alone, these seeds held fixed; None where test patients
            do not enter the metric.
        variance: what it varies by; None where that is not known.
        why: why there is no interval, empty if there is one.
    """

    values: Mapping[int, float]
    interval: Interval | None = None
    patients: Interval | None = None
    variance: SeedVariance | None = None
    why: str = ""

    @property
    def value(self) -> float:
        """The mean; NaN of no seed."""
        return float(np.mean(list(self.values.values()))) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over seeds (S - 1); NaN of fewer than two."""
        found = list(self.values.values())
        return float(np.std(found, ddof=1)) if len(found) > 1 else math.nan

    @property
    def p(self) -> float | None:
        """Two-sided p of no difference; None of a single seed, and where nothing is known."""
        if self.interval is None or self.variance is None:
            return None
        return self.variance.p_value(self.value)


def mean_over_seeds(runs: Mapping[int, Resampled], name: str) -> Estimate:
    """A metric of one system.

    Args:
        runs: its runs by seed.
    """
    values = {seed: value for seed, run in runs.items() if (value := run.value(name)) is not None}
    used = [runs[seed] for seed in values]
    shared = _shared(used, name)
    if not values or shared is None:
        return Estimate(values, why=OTHER_PATIENTS if values else "not measured")
    variance = SeedVariance.of([*values.values()], shared or None)
    patients = _of_a_share(used, name, shared) or _of_patients(shared)
    if len(values) == 1:
        return Estimate(values, None, patients, variance, ONE_SEED)
    if not variance.total and patients is None:
        return Estimate(values, None, None, variance, ALIKE)
    mean, width = float(np.mean([*values.values()])), variance.half_width()
    interval = (mean - width, mean + width)
    if _is_share(used, name) and 0 < mean < 1 and variance.total:
        interval = scaled_share_interval(mean, variance.total, variance.critical())
    # Few patients say too little of the variance: seeds do not settle what patients leave open.
    low, high = patients or (mean, mean)
    return Estimate(values, (min(interval[0], low), max(interval[1], high)), patients, variance)


def _is_share(runs: Sequence[Resampled], name: str) -> bool:
    """Whether a metric lies in [0, 1]: as its runs say, or as all that a former version wrote."""
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


def _of_a_share(
    runs: Sequence[Resampled], name: str, shared: Sequence[np.ndarray]
) -> Interval | None:
    """The runs' own intervals over patients as one of their mean; None if they have none."""
    found = [run.measured(name).get("interval") for run in runs]
    ends = [(float(one[0]), float(one[1])) for one in found if one]
    certain = any(low == high for low, high in ends)  # a perfect figure's, of a former version
    if not shared or certain or len(ends) < len(runs) or not _is_share(runs, name):
        return None
    return mean_interval([run.value(name) or 0.0 for run in runs], ends, shared)


def difference(
    ours: Mapping[int, Resampled], theirs: Mapping[int, Resampled], name: str
) -> Estimate | None:
    """A metric of one system less that of another, paired by seed; None without a common seed.

    Args:
        ours, theirs: each system's runs by seed.
    """
    values, pairs = {}, []
    for seed in ours:
        if seed in theirs:
            left, right = ours[seed].value(name), theirs[seed].value(name)
            if left is not None and right is not None:
                values[seed] = left - right
                pairs.append((ours[seed], theirs[seed]))
    if not values:
        return None
    shared = _shared([run for pair in pairs for run in pair], name)
    if shared is None:
        return Estimate(values, why=OTHER_PATIENTS)
    gaps = [left - right for left, right in zip(shared[::2], shared[1::2], strict=True)]
    variance = SeedVariance.of([*values.values()], gaps or None)
    patients = _of_patients(gaps)
    if len(values) == 1 or not variance.total:
        return Estimate(values, None, patients, variance, ALIKE if variance.count > 1 else ONE_SEED)
    mean, width = float(np.mean([*values.values()])), variance.half_width()
    return Estimate(values, (mean - width, mean + width), patients, variance)


def _shared(runs: Sequence[Resampled], name: str) -> list[np.ndarray] | None:
    """A metric's resamples of each run, where all are of the same patients.

    Empty where no run has any: test patients do not enter the metric. None where they cannot be
    put side by side.
    """
    found = [run.resamples(name) for run in runs]
    known = [one for one in found if one is not None]
    if not known:
        return []
    if len(known) < len(runs) or len({len(one) for one in known}) > 1:
        return None
    if len({run.tested for run in runs}) > 1 or not runs[0].tested:
        return None
    return known


def _of_patients(resamples: Sequence[np.ndarray]) -> Interval | None:
    """The percentile interval of a mean over these very seeds."""
    return percentile_interval(np.mean(resamples, axis=0)) if len(resamples) else None


def _numbers(text: str) -> dict[str, np.ndarray]:
    table = parse_csv(text)
    return {name: numbers(table, name, -math.inf, math.inf) for name in table}


def _patients(text: str) -> list[str]:
    table = parse_csv(text)
    if "patient" not in table:
        raise ValueError("no column 'patient'")
    return list(table["patient"])
