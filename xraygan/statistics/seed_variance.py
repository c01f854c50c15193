"""What a mean over training seeds, or a difference of two, varies by: test patients and training.

Two numbers that were measured on the same patients with a few seeds each differ for three reasons:
the systems differ, the seeds differ, and other patients would have given other numbers. A bootstrap
over patients sees the last alone. With v_p the variance that other patients would bring and v_s the
variance that other seeds would bring, the interval of a mean of S seeds is

    mean +- c sqrt(v_p + v_s)

v_s = s^2 / S, with s the standard deviation between seeds. It also holds what each network makes
of single patients (two networks of one recipe err on different ones), which the bootstrap over
patients sees too; so v_p is the bootstrap's variance of the mean less that share, or that part
would count twice. c lies between the normal quantile (v_s = 0) and Student's t of S - 1 degrees of
freedom (v_p = 0). Welch's and Satterthwaite's c is too small with few seeds (level up to 8 % with
three), that of Behrens and Fisher too large (down to 2.4 %): their geometric mean holds 3.4 to 6 %
(docs/metrics.md).
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

_DRAWS = 40  # of a variance, when power is asked for


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a mean over training seeds.

    Attributes:
        patients: v_p, what other test patients would bring; more seeds do not reduce it.
        seeds: v_s, what other training seeds would bring; 0 of a single seed, which says nothing
            of it.
        count: S, how many seeds.
    """

    patients: float
    seeds: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], resamples: Sequence[np.ndarray] | None) -> SeedVariance:
        """From one value a seed.

        Args:
            values: ``(S,)``, S at least 1.
            resamples: for each seed its value in resamples ``(B,)`` of the test patients, shared
                between the seeds; None where test patients do not enter, or are not known.
        """
        count = len(values)
        seeds = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
        if resamples is None:
            return cls(0.0, seeds, count)
        matrix = np.stack([np.asarray(one, dtype=float) for one in resamples])
        matrix = matrix[:, np.isfinite(matrix).all(axis=0)]
        if matrix.shape[1] < 2:
            return cls(0.0, seeds, count)
        mean = matrix.mean(axis=0)
        patients = float(np.var(mean, ddof=1))
        if count > 1:
            # What each seed's network makes of the patients, beside what all of them do.
            own = np.var(matrix - mean, axis=1, ddof=1).sum() / (count - 1)
            patients = max(patients - float(own) / count, 0.0)
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
        """Two-sided: the level at which the interval of a difference just reaches 0.

        1 for no difference at all, and where nothing is known of how it varies.
        """
        if difference == 0 or self.total == 0:
            return 1.0
        least = 1e-9

        def beyond(log_level: float) -> float:
            return self.half_width(float(np.exp(log_level))) - abs(difference)

        if beyond(np.log(least)) <= 0:
            return least
        if beyond(np.log(1 - least)) >= 0:
            return 1.0
        return float(np.exp(brentq(beyond, np.log(least), np.log(1 - least), xtol=1e-6)))

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float:
        """The smallest true difference that would be found with this power, if seeds and patients
        vary as they did."""
        if self.total == 0:
            return 0.0
        widths, spread = self._widths(level), float(np.sqrt(self.total))

        def short(difference: float) -> float:
            found = ndtr((difference - widths) / spread) + ndtr((-difference - widths) / spread)
            return float(found.mean()) - power

        most = float(widths.max()) + 6 * spread
        return float(brentq(short, 0.0, most))

    def seeds_for(self, difference: float, level: float = LEVEL) -> int | None:
        """How many seeds would find a true difference with a power of 80 %.

        None if no number up to 1,000 would: the test patients are too few then.
        """

        def enough(count: int) -> bool:
            seeds = self.seeds * self.count / count
            more = replace(self, seeds=seeds, count=count)
            return more.detectable(level) <= difference

        if not enough(MOST_SEEDS):
            return None
        low, high = 1, MOST_SEEDS  # of low + 1 to high, the first that is enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def _widths(self, level: float) -> np.ndarray:
        """Half widths ``(D,)`` of other experiments like this one: their s^2 are chi-squared."""
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
    # Finer where T varies so little that its distribution function is nearly a step.
    grid = np.linspace(-8, 8, 401 if student > 0.05 else 8001)
    weights = np.exp(-np.square(grid) / 2)
    weights /= weights.sum()

    def short(q: float) -> float:
        # Given Z, the rest is a matter of T's distribution function.
        upper, lower = (q - normal * grid) / student, (-q - normal * grid) / student
        inside = stdtr(degrees, upper) - stdtr(degrees, lower)
        return float(weights @ inside) - (1 - level)

    return float(brentq(short, 0.0, 10 + 2 * abs(stdtrit(degrees, level / 2)), xtol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm, Scandinavian Journal of Statistics 6, 1979).

    The i-th smallest of k is multiplied by k - i + 1, and none is below a smaller one's.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted
