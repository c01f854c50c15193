"""The calibration of the classifier's probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import percentile_interval

from .classification import SHARE, Predictions, class_mean, ratio

Binning = Literal["width", "mass"]


def bins_of(probs: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    """The bin ``(N,)`` of each probability.

    Bins of equal width are [0, 1/B), [1/B, 2/B), ... [1 - 1/B, 1]. Bins of equal mass are bounded
    by the quantiles 1/B, 2/B, ... of the probabilities, so that they have about equal counts; equal
    probabilities share a bin.
    """
    if binning == "width":
        return np.minimum((probs * bins).astype(np.int64), bins - 1)
    bounds = np.quantile(probs, np.arange(1, bins) / bins)
    return np.searchsorted(bounds, probs, side="left")


def calibration_error(
    truth: np.ndarray, probs: np.ndarray, bins: np.ndarray, weights: np.ndarray
) -> float:
    """Sum over bins b of (n_b / n) |mean truth - mean probability in b|; NaN if all weights are 0.

    Args:
        truth, probs: ``(N,)``, 0/1 and in [0, 1].
        bins: ``(N,)`` int64, the bin of each image.
        weights: ``(N,)``, at least 0: how often each image counts.
    """
    total = weights.sum()
    if total == 0:
        return float("nan")
    return float(np.abs(np.bincount(bins, weights * (truth - probs))).sum() / total)


class Calibration(Metric):
    """Calibration of the classifier: expected calibration error (ECE) and Brier score

    For each class against the rest: ECE is the sum over bins b of the probabilities p of (n_b / n)
    |share of positives in b - mean p in b|, in [0, 1]; it is 0 for perfectly calibrated
    probabilities. The Brier score is the mean of (p - y)^2, in [0, 1]. Both are also averaged over
    the classes (the mean Brier score times the number of classes is Brier's original score). For
    exclusive classes, `ece/top` is the ECE of the probability of the predicted class, and images
    with none or several of the classes are left out.

    Intervals are over patients. The interval of a class's Brier score is a score interval, as that
    of accuracy; the interval of ECE is a percentile bootstrap with fixed bins; the intervals of
    means combine those of the classes. ECE is biased upwards, more with more bins and fewer images,
    and each resample adds the same bias again, so the resamples are shifted to have the figure as
    their mean.

    Source: Guo et al., arXiv:1706.04599; equal mass: Nguyen and O'Connor, arXiv:1508.05154;
    Brier, Verification of forecasts expressed in terms of probability, 1950.

    Args:
        bins: B.
        binning: "width" for bins of equal width, "mass" for bins with equal numbers of images.
    """

    def __init__(
        self, *, bins: Annotated[int, Field(gt=0, le=10_000)] = 15, binning: Binning = "width"
    ) -> None:
        self.bins = bins
        self.binning = binning

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        predictions = Predictions.of(evaluation, evaluation.probs)
        if not predictions.counted.any():
            note = f"no {evaluation.kind} image has one of the classes"
            none = Measurement(None, 0, note=note, better="lower")
            return {"ece/mean": none, "brier/mean": none}
        error, brier = {}, {}
        for i, name in enumerate(evaluation.classes):
            truth, probs = predictions.truth[:, i].astype(np.float64), predictions.probs[:, i]
            error[name] = self._error(evaluation, truth, probs, predictions.counted)
            squares = np.square(probs - truth) * predictions.counted
            brier[name] = ratio(evaluation, squares, predictions.counted, "mean (p - y)^2")
        figures = {f"ece/{name}": measured for name, measured in error.items()}
        figures["ece/mean"] = _mean(error)
        if evaluation.task.exclusive:
            right = (predictions.truth == predictions.predicted).all(axis=1).astype(np.float64)
            top = self._error(evaluation, right, predictions.probs.max(axis=1), predictions.counted)
            figures["ece/top"] = replace(top, note=f"of the likeliest class, {top.note}")
        figures |= {f"brier/{name}": measured for name, measured in brier.items()}
        figures["brier/mean"] = _mean(brier)
        n = int(predictions.counted.sum())
        return {name: replace(one, n=n, better="lower") for name, one in figures.items()}

    def _error(
        self, evaluation: Evaluation, truth: np.ndarray, probs: np.ndarray, counted: np.ndarray
    ) -> Measurement:
        bins = bins_of(probs, self.bins, self.binning)

        def error(weights: np.ndarray) -> float:
            return calibration_error(truth, probs, bins, weights * counted)

        value = error(np.ones(len(truth)))
        note = f"{self.bins} bins of equal {self.binning}; resamples less what they are biased by"
        measured = evaluation.over_patients(value, error, note)
        resamples = measured.resamples
        if resamples is None or not np.isfinite(resamples).any():
            return measured
        return _with_resamples(measured, value, resamples - np.nanmean(resamples) + value)


def _mean(by_class: Mapping[str, Measurement]) -> Measurement:
    first = next(iter(by_class.values()))
    return class_mean([*by_class.values()], f"mean over {len(by_class)} classes, {first.note}")


def _with_resamples(measured: Measurement, value: float, resamples: np.ndarray) -> Measurement:
    """A figure in [0, 1] with the interval of its resamples."""
    interval = percentile_interval(resamples)
    if interval is not None:
        interval = (max(interval[0], 0.0), min(interval[1], 1.0))
    return replace(measured, value=value, interval=interval, resamples=resamples, limits=SHARE)
