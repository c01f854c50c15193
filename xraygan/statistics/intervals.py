"""95 % confidence intervals of metrics that were measured on test patients.

A percentile bootstrap is too narrow if few patients decide a metric or if the metric is near an end
of its range, and it has no width for a perfect value. Shares (accuracy, recall) and AUCs therefore
have *score intervals*: all values that the measured value does not contradict, with the variance
that the metric would have *at those values*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

CONFIDENCE = 0.95
Interval = tuple[float, float]

#: weight of the variance formula in patients, against the measured variance
PRIOR = 10.0
_EDGE = 1e-9


def percentile_interval(values: np.ndarray) -> Interval | None:
    """The 95 % percentile interval of bootstrap values ``(B,)``, without those that are NaN.

    None without values or if all are equal, since the resamples then show no variation between
    patients.
    """
    defined = values[np.isfinite(values)]
    if not len(defined) or np.ptp(defined) == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_variance(resamples: np.ndarray, patients: int) -> float:
    """The variance of a metric over test patients, from its values in resamples ``(B,)`` of them.

    A resample of m patients varies less than m other patients would, by (m - 1) / m.

    Args:
        patients: m; the patients of the smaller class if the metric compares two. At least 2.
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

    and is scaled to the measured variance, see :func:`score_interval`.

    Args:
        value: the AUC, in [0, 1].
        variance: as measured over patients, :func:`bootstrap_variance`.
        positives, negatives: m and n, the number of *patients* with positive and with negative
            images, so that several images of a patient count as one patient. At least 1.
    """
    n_minus_1 = (positives + negatives) / 2 - 1

    def model(area: float) -> float:
        shape = (1 - area) / (2 - area) + area / (1 + area)
        return area * (1 - area) * (1 + n_minus_1 * shape) / (positives * negatives)

    return score_interval(value, variance, model, min(positives, negatives))


def share_interval(value: float, variance: float, patients: int) -> Interval:
    """A score interval of a share, such as an accuracy: V(p) = p (1 - p) / m, as Wilson's.

    Args:
        value: the share, or a mean of values in [0, 1].
        variance: as measured over patients, :func:`bootstrap_variance`.
        patients: m, the number of patients whose images count. At least 1.
    """
    return score_interval(value, variance, lambda share: share * (1 - share) / patients, patients)


def score_interval(
    value: float, variance: float, model: Callable[[float], float], patients: int
) -> Interval:
    """All t in [0, 1] with (value - t)^2 <= c^2 s V(t).

    V is a formula for the variance over patients, and s scales it to the measured variance: with r
    the measured variance over V(value),

        s = max(r, ((m - 1) r + 10) / (m - 1 + 10))

    Few patients give a poor estimate of the variance, mostly too small if the value is near an end
    of its range. So the formula gets the weight of ten patients. c is the quantile of Student's t
    with m - 1 + 10 degrees of freedom. At 0 and at 1, where the variance cannot be measured, s = 1.

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

    # The ends of the interval are the roots of `beyond` on both sides of the value.
    first, last = _EDGE, 1 - _EDGE
    low, high = 0.0, 1.0
    if beyond(first) > 0:
        low = float(brentq(beyond, first, min(value, last)))
    if beyond(last) > 0:
        high = float(brentq(beyond, max(value, first), last))
    return low, high


def scaled_share_interval(value: float, variance: float, critical: float) -> Interval:
    """All t with (value - t)^2 <= critical^2 variance t (1 - t) / (value (1 - value)).

    Wilson's interval for the number of images that would give this variance; it is within [0, 1].

    Args:
        value: in (0, 1).
        variance: the total variance of the value, above 0.
        critical: the matching quantile, for example 1.96.
    """
    excess = critical**2 * variance / (value * (1 - value))
    middle = (value + excess / 2) / (1 + excess)
    half = float(np.sqrt(excess * value * (1 - value) + excess**2 / 4)) / (1 + excess)
    return middle - half, middle + half


def mean_interval(
    values: Sequence[float], intervals: Sequence[Interval], resamples: Sequence[np.ndarray]
) -> Interval:
    """An interval of the mean of K values that were measured on the same patients.

    The distances from each value to the ends of its interval are added like standard deviations
    (Zou, Psychological Methods 12, 2007): with d_k = value_k - low_k,

        low = mean - sqrt(sum over k, l of r_kl d_k d_l) / K

    Args:
        values, intervals: the K values and their intervals.
        resamples: ``(B,)`` of each value, shared between the values; r_kl is their correlation, and
            1 for a value that does not vary.
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


def difference_interval(
    values: tuple[float, float],
    intervals: tuple[Interval, Interval],
    resamples: tuple[np.ndarray, np.ndarray],
) -> Interval:
    """An interval of the first value minus the second, measured in the same resamples of patients.

    It is that of :func:`mean_interval`, since a - b is twice the mean of a and -b.
    """
    flipped = (-intervals[1][1], -intervals[1][0])
    low, high = mean_interval(
        [values[0], -values[1]], [intervals[0], flipped], [resamples[0], -resamples[1]]
    )
    return 2 * low, 2 * high
