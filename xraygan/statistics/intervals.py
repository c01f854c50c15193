"""95 % confidence intervals of figures that were measured on test patients.

A percentile bootstrap is too narrow where few patients decide a figure or where the figure is near
an end of its range, and has no width at all for a perfect figure. Shares (accuracy, recall) and
AUCs therefore have *score intervals*: all values that the measured one does not contradict, with
the variance that the figure would have *at those values*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

CONFIDENCE = 0.95
Interval = tuple[float, float]

#: how many patients the variance formula counts for, against the variance that was measured
PRIOR = 10.0
_EDGE = 1e-9


def percentile_interval(values: np.ndarray) -> Interval | None:
    """The 95 % percentile interval of bootstrap values ``(B,)``, those that are NaN left out.

    None where there are no values, or where all are equal: no resample says how far the figure of
    other patients may lie from this one.
    """
    defined = values[np.isfinite(values)]
    if not len(defined) or np.ptp(defined) == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_variance(resamples: np.ndarray, patients: int) -> float:
    """The variance of a figure over test patients, from its values in resamples ``(B,)`` of them.

    A resample of m patients varies less than m other patients would, by (m - 1) / m.

    Args:
        patients: m; of the smaller class where the figure compares two. At least 2.
    """
    defined = resamples[np.isfinite(resamples)]
    if len(defined) < 2 or patients < 2:
        return 0.0
    return float(np.var(defined, ddof=1)) * patients / (patients - 1)


def auc_interval(value: float, variance: float, positives: int, negatives: int) -> Interval:
    """A score interval of an area under the ROC curve.

    The variance at an AUC of A is that of Hanley and McNeil (Radiology 143, 1982) with both
    numbers under it replaced by their mean, N* (Newcombe, Statistics in Medicine 25, 2006,
    method 5):

    V(A) = A (1 - A) [1 + (N* - 1) ((1 - A) / (2 - A) + A / (1 + A))] / (m n),  N* = (m + n) / 2

    and is scaled to the variance that was measured, see :func:`score_interval`.

    Args:
        value: the AUC, in [0, 1].
        variance: as measured over patients, :func:`bootstrap_variance`.
        positives, negatives: m and n, how many *patients* have positive and negative images, so
            that several images of a patient do not count as so many patients. At least 1.
    """
    spare = (positives + negatives) / 2 - 1

    def model(area: float) -> float:
        shape = (1 - area) / (2 - area) + area / (1 + area)
        return area * (1 - area) * (1 + spare * shape) / (positives * negatives)

    return score_interval(value, variance, model, min(positives, negatives))


def share_interval(value: float, variance: float, patients: int) -> Interval:
    """A score interval of a share, such as an accuracy: V(p) = p (1 - p) / m, as Wilson's.

    Args:
        value: the share, or a mean of values in [0, 1].
        variance: as measured over patients, :func:`bootstrap_variance`.
        patients: m, how many patients have images that count. At least 1.
    """
    return score_interval(value, variance, lambda share: share * (1 - share) / patients, patients)


def score_interval(
    value: float, variance: float, model: Callable[[float], float], patients: int
) -> Interval:
    """All t in [0, 1] with (value - t)^2 <= c^2 s V(t).

    V is a formula for the variance over patients, and s scales it to what was measured: with r the
    measured variance over V(value),

        s = max(r, ((m - 1) r + 10) / (m - 1 + 10))

    Few patients say little of the variance, and less the nearer the value is to an end, where most
    samples show too little of it: the formula then counts as much as ten patients. c is the
    quantile of Student's t of m - 1 + 10 degrees of freedom. At 0 and at 1, where nothing was
    measured of the variance, s = 1.

    Coverage in simulations: docs/metrics.md.

    Args:
        model: V, 0 at 0 and at 1.
        patients: m.
    """
    degrees = patients - 1 + PRIOR
    ratio = 1.0
    if _EDGE < value < 1 - _EDGE and variance > 0:
        ratio = variance / model(value)
        ratio = max(ratio, ((patients - 1) * ratio + PRIOR) / degrees)
    squared = ratio * float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) ** 2

    def beyond(other: float) -> float:
        return (value - other) ** 2 - squared * model(other)

    least, most = _EDGE, 1 - _EDGE
    low, high = 0.0, 1.0
    if beyond(least) > 0:
        low = float(brentq(beyond, least, min(value, most)))
    if beyond(most) > 0:
        high = float(brentq(beyond, max(value, least), most))
    return low, high


def scaled_share_interval(value: float, variance: float, critical: float) -> Interval:
    """All t with (value - t)^2 <= critical^2 variance t (1 - t) / (value (1 - value)).

    Wilson's interval with as many images as would give this variance: it stays within [0, 1].

    Args:
        value: in (0, 1).
        variance: of all that the figure varies by, above 0.
        critical: the quantile that belongs to it, for example 1.96.
    """
    excess = critical**2 * variance / (value * (1 - value))
    middle = (value + excess / 2) / (1 + excess)
    half = float(np.sqrt(excess * value * (1 - value) + excess**2 / 4)) / (1 + excess)
    return middle - half, middle + half


def mean_interval(
    values: Sequence[float], intervals: Sequence[Interval], resamples: Sequence[np.ndarray]
) -> Interval:
    """An interval of the mean of figures that were measured on the same patients.

    The distances from each figure to the ends of its interval are added as standard deviations are
    (Zou, Psychological Methods 12, 2007): with d_k = value_k - low_k,

        low = mean - sqrt(sum over k, l of r_kl d_k d_l) / K

    Args:
        values, intervals: of the K figures.
        resamples: ``(B,)`` each, shared between the figures; r_kl is their correlation, 1 where a
            figure does not vary and nothing is known of it.
    """
    matrix = np.stack(resamples)
    matrix = matrix[:, np.isfinite(matrix).all(axis=0)]
    correlation = np.ones((len(values), len(values)))
    if matrix.shape[1] > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.nan_to_num(np.atleast_2d(np.corrcoef(matrix)), nan=1.0)
    mean = float(np.mean(values))
    below = np.array([value - low for value, (low, _) in zip(values, intervals, strict=True)])
    above = np.array([high - value for value, (_, high) in zip(values, intervals, strict=True)])
    ends = [
        float(np.sqrt(max(side @ correlation @ side, 0.0))) / len(values) for side in (below, above)
    ]
    return mean - ends[0], mean + ends[1]
