"""The variance of a mean over training seeds, or of a difference of two: test patients and seeds.

Two values that were measured on the same patients with a few seeds each differ for three reasons:
the systems differ, the seeds differ, and other patients would give other values. A bootstrap over
patients shows only the last. With v_p the variance between patients and v_s the variance between
seeds, the interval of a mean of S seeds is

    mean +- c sqrt(v_p + v_s)

v_s = s^2 / S, with s the standard deviation between seeds. It includes the interaction of networks
and patients (two networks of one recipe err on different patients), which the bootstrap over
patients includes too. So that it does not count twice, v_p is the bootstrap's variance of the mean
without it. c lies between the normal quantile (v_s = 0) and Student's t with S - 1 degrees of
freedom (v_p = 0). With few seeds the c of Welch and Satterthwaite is too small (level up to 8 %
with three seeds), and that of Behrens and Fisher is too large (down to 2.4 %). Their geometric mean
keeps 3.4 to 6 % (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, ndtri, stdtr, stdtrit

LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 1000

_DRAWS = 40  # quantiles of the variance for the power


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a mean over training seeds.

    Attributes:
        patients: v_p, the variance between test patients; more seeds do not reduce it.
        seeds: v_s, the variance between training seeds; 0 for a single seed, where it is unknown.
        count: S, the number of seeds.
    """

    patients: float
    seeds: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], resamples: Sequence[np.ndarray] | None) -> SeedVariance:
        """The variance of the mean of one value for each seed.

        Args:
            values: ``(S,)``, S at least 1.
            resamples: for each seed its value in resamples ``(B,)`` of the test patients, shared
                between the seeds; None if the values do not depend on test patients.
        """
        count = len(values)
        seeds = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
        if resamples is None:
            return cls(0.0, seeds, count)
        matrix = np.stack([np.asarray(row, dtype=float) for row in resamples])
        matrix = matrix[:, np.isfinite(matrix).all(axis=0)]
        if matrix.shape[1] < 2:
            return cls(0.0, seeds, count)
        mean = matrix.mean(axis=0)
        patients = float(np.var(mean, ddof=1))
        if count > 1:
            # The interaction of seeds and patients: the deviations of each seed from the mean.
            interaction = np.var(matrix - mean, axis=1, ddof=1).sum() / (count - 1)
            patients = max(patients - float(interaction) / count, 0.0)
        return cls(patients, seeds, count)

    @property
    def total(self) -> float:
        """v_p + v_s."""
        return self.patients + self.seeds

    def critical(self, level: float = LEVEL) -> float:
        """c: half the width of the interval, in standard deviations sqrt(v_p + v_s)."""
        if self.count < 2 or self.seeds == 0:
            return float(ndtri(1 - level / 2))
        share = self.seeds / self.total
        degrees = self.count - 1
        welch = float(stdtrit(min(degrees / share**2, 1e9), 1 - level / 2))
        return float(np.sqrt(welch * _behrens_fisher(share, degrees, level)))

    def half_width(self, level: float = LEVEL) -> float:
        """c sqrt(v_p + v_s)."""
        return self.critical(level) * float(np.sqrt(self.total))

    def p_value(self, difference: float) -> float:
        """The two-sided p: the level at which the interval of a difference just reaches 0.

        1 for a difference of 0, and if the variance is unknown.
        """
        if difference == 0 or self.total == 0:
            return 1.0
        lowest = 1e-9

        def beyond(log_level: float) -> float:
            return self.half_width(float(np.exp(log_level))) - abs(difference)

        if beyond(np.log(lowest)) <= 0:
            return lowest
        if beyond(np.log(1 - lowest)) >= 0:
            return 1.0
        return float(np.exp(brentq(beyond, np.log(lowest), np.log(1 - lowest), xtol=1e-6)))

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float:
        """The smallest true difference that would be found with this power, if seeds and patients
        vary as they did here."""
        if self.total == 0:
            return 0.0
        widths, spread = self._widths(level), float(np.sqrt(self.total))

        def short(difference: float) -> float:
            chance = ndtr((difference - widths) / spread) + ndtr((-difference - widths) / spread)
            return float(chance.mean()) - power

        largest = float(widths.max()) + 6 * spread
        return float(brentq(short, 0.0, largest))

    def seeds_for(self, difference: float, level: float = LEVEL) -> int | None:
        """The number of seeds that would find a true difference with a power of 80 %.

        None if no number up to 1,000 would, because there are too few test patients.
        """

        def enough(count: int) -> bool:
            seeds = self.seeds * self.count / count
            more = replace(self, seeds=seeds, count=count)
            return more.detectable(level) <= difference

        if not enough(MOST_SEEDS):
            return None
        low, high = 1, MOST_SEEDS  # the smallest number that is enough is in low + 1 to high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def _widths(self, level: float) -> np.ndarray:
        """Half widths ``(D,)`` of repeated experiments, whose s^2 are chi-squared distributed."""
        if self.count < 2 or self.seeds == 0:
            return np.array([self.half_width(level)])
        degrees = self.count - 1
        share = (np.arange(_DRAWS) + 0.5) / _DRAWS
        drawn = chdtri(degrees, share) / degrees
        return np.array([replace(self, seeds=self.seeds * x).half_width(level) for x in drawn])


@lru_cache(maxsize=4096)
def _behrens_fisher(share: float, degrees: int, level: float) -> float:
    """The quantile q with P(|sqrt(1 - share) Z + sqrt(share) T| <= q) = 1 - level.

    Z is standard normal, T Student's t.
    """
    normal, student = np.sqrt(1 - share), np.sqrt(share)
    # A finer grid if T varies so little that its distribution function is nearly a step.
    grid = np.linspace(-8, 8, 401 if student > 0.05 else 8001)
    weights = np.exp(-np.square(grid) / 2)
    weights /= weights.sum()

    def short(q: float) -> float:
        # For each Z, the probability follows from the distribution function of T.
        upper, lower = (q - normal * grid) / student, (-q - normal * grid) / student
        inside = stdtr(degrees, upper) - stdtr(degrees, lower)
        return float(weights @ inside) - (1 - level)

    return float(brentq(short, 0.0, 10 + 2 * abs(stdtrit(degrees, level / 2)), xtol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    The i-th smallest of k is multiplied by k - i + 1, and no adjusted value is below that of a
    smaller one.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
