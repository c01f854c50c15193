"""The average precision of each class: the area under its precision-recall curve."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import share_interval

from .classification import FEW, by_class, with_interval


def weighted_average_precision(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """The sum over thresholds n of (R_n - R_{n-1}) P_n with image weights; NaN without positives.

    P_n and R_n are the precision and the recall of the images with the n highest distinct scores.
    The scores come sorted, so that a bootstrap sorts once for thousands of weightings.

    Args:
        truth: ``(N,)`` 0/1, in the order of the scores.
        scores: ``(N,)``, in falling order.
        weights: ``(N,)``, at least 0.
    """
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])  # of each run of equal scores
    detected, called = np.cumsum(weights * truth)[last], np.cumsum(weights)[last]
    if detected[-1] == 0:
        return float("nan")
    # A threshold above which no image has a weight adds no recall.
    precision = detected / np.where(called > 0, called, 1.0)
    return float((np.diff(detected, prepend=0.0) * precision).sum() / detected[-1])


class AveragePrecision(Metric):
    """Average precision of each class against the rest, and the mean over classes

    The area under the precision-recall curve without interpolation: AP = sum over thresholds n of
    (R_n - R_{n-1}) P_n, with equal probabilities at one threshold. Unlike the AUC it depends on how
    frequent a class is: a classifier without skill has the share of positive images, which the note
    gives as the no-skill value, so values of other test sets are not comparable. With few positive
    images AP is biased upwards. A class has no AP if all or none of the test images have it.

    Intervals are score intervals over patients (Wilson's, of the patients with positive images,
    scaled to the variance in a bootstrap); the interval of the mean combines those of the classes
    (Zou's). docs/metrics.md has their coverage in simulations.

    Source: scikit-learn's average_precision_score; Boyd, Eng and Page, ECML PKDD 2013, for
    intervals by a formula for shares.
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        return by_class(evaluation, evaluation.probs, "average_precision", average_precision)


def average_precision(evaluation: Evaluation, truth: np.ndarray, scores: np.ndarray) -> Measurement:
    """The average precision of one class that some of the images have, and some have not.

    Args:
        truth, scores: ``(N,)``, labels and probabilities of the images that are measured.
    """
    order = np.argsort(-scores, kind="stable")
    falling = (truth[order].astype(np.float64), scores[order])

    def statistic(weights: np.ndarray) -> float:
        return weighted_average_precision(*falling, weights[order])

    positives = len(np.unique(evaluation.patients[truth == 1]))
    note = f"no skill: {truth.mean():.3g}, the share of the {int(truth.sum())} positive images"
    note += f" of {positives} patients"
    if positives < FEW:
        note += ": too few for its interval to be trusted"
    value = statistic(np.ones(len(truth)))
    return with_interval(
        evaluation.over_patients(value, statistic, note),
        lambda variance: share_interval(value, variance, positives),
        positives,
    )
