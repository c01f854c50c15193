"""Whether the classifier's probabilities can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import percentile_interval

from .classification import SHARE, Judged, mean_of, ratio

Binning = Literal["width", "mass"]


def bins_of(probs: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    """The bin ``(N,)`` of each probability.

    Of equal width: [0, 1/B), [1/B, 2/B), ... [1 - 1/B, 1]. Of equal mass: bounded by the quantiles
    1/B, 2/B, ... of the probabilities, so that each holds about as many; equal ones share a bin.
    """
    if binning == "width":
        return np.minimum((probs * bins).astype(np.int64), bins - 1)
    bounds = np.quantile(probs, np.arange(1, bins) / bins)
    return np.searchsorted(bounds, probs, side="left")


def calibration_error(
    truth: np.ndarray, probs: np.ndarray, where: np.ndarray, weights: np.ndarray
) -> float:
    """Sum over bins b of (n_b / n) |mean truth - mean probability in b|, NaN without weight.

    Args:
        truth, probs: ``(N,)``, 0/1 and in [0, 1].
        where: ``(N,)`` int64, the bins.
        weights: ``(N,)``, at least 0: how often each counts.
    """
    total = weights.sum()
    if total == 0:
        return float("nan")
    return float(np.abs(np.bincount(where, weights * (truth - probs))).sum() / total)


class Calibration(Metric):
    """Calibration of the classifier: expected calibration error (ECE) and Brier score

    For each class against the rest: ECE is the sum over bins b of the probabilities p of (n_b / n)
    |share of positives in b - mean p in b|, in [0, 1], 0 for probabilities that can be taken at
    their word; the Brier score is the mean of (p - y)^2, in [0, 1]. Both as means over classes too
    (times the number of classes, that is Brier's own score). Where classes exclude each other,
    `ece/top` is the ECE of the likeliest class's probability against whether it is right, and
    images that have none or several of the classes are left out.

    Intervals are over patients. That of a class's Brier score is a score interval, as accuracy's;
    that of ECE the percentiles of a bootstrap, the bins held fixed; those of means add those of the
    classes. ECE is biased upwards, more with more bins and fewer images, and a resample by as much
    again: the resamples are moved so that their mean is the figure.

    Source: Guo et al., arXiv:1706.04599; equal mass: Nguyen and O'Connor, arXiv:1508.05154;
    Brier, Verification of forecasts expressed in terms of probability, 1950.

    Args:
        bins: B.
        binning: "width" for bins of equal width, "mass" for bins of equally many images.
    """

    def __init__(
        self, *, bins: Annotated[int, Field(gt=0, le=10_000)] = 15, binning: Binning = "width"
    ) -> None:
        self.bins = bins
        self.binning = binning

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        judged = Judged.of(evaluation, evaluation.probs)
        if not judged.counted.any():
            note = f"no {evaluation.kind} image has one of the classes"
            none = Measurement(None, 0, note=note, better="lower")
            return {"ece/mean": none, "brier/mean": none}
        error, brier = {}, {}
        for i, name in enumerate(evaluation.classes):
            truth, probs = judged.truth[:, i].astype(np.float64), judged.probs[:, i]
            error[name] = self._error(evaluation, truth, probs, judged.counted)
            squares = np.square(probs - truth) * judged.counted
            brier[name] = ratio(evaluation, squares, judged.counted, "mean (p - y)^2")
        found = {f"ece/{name}": measured for name, measured in error.items()}
        found["ece/mean"] = _mean(error)
        if evaluation.task.exclusive:
            right = (judged.truth == judged.predicted).all(axis=1).astype(np.float64)
            top = self._error(evaluation, right, judged.probs.max(axis=1), judged.counted)
            found["ece/top"] = replace(top, note=f"of the likeliest class, {top.note}")
        found |= {f"brier/{name}": measured for name, measured in brier.items()}
        found["brier/mean"] = _mean(brier)
        n = int(judged.counted.sum())
        return {name: replace(one, n=n, better="lower") for name, one in found.items()}

    def _error(
        self, evaluation: Evaluation, truth: np.ndarray, probs: np.ndarray, counted: np.ndarray
    ) -> Measurement:
        where = bins_of(probs, self.bins, self.binning)

        def error(weights: np.ndarray) -> float:
            return calibration_error(truth, probs, where, weights * counted)

        value = error(np.ones(len(truth)))
        note = f"{self.bins} bins of equal {self.binning}; resamples less what they are biased by"
        measured = evaluation.over_patients(value, error, note)
        resamples = measured.resamples
        if resamples is None or not np.isfinite(resamples).any():
            return measured
        return _of_resamples(measured, value, resamples - np.nanmean(resamples) + value)


def _mean(of: Mapping[str, Measurement]) -> Measurement:
    first = next(iter(of.values()))
    return mean_of([*of.values()], f"mean over {len(of)} classes, {first.note}")


def _of_resamples(measured: Measurement, value: float, resamples: np.ndarray) -> Measurement:
    """A figure in [0, 1] with the interval of its resamples."""
    interval = percentile_interval(resamples)
    if interval is not None:
        interval = (max(interval[0], 0.0), min(interval[1], 1.0))
    return replace(measured, value=value, interval=interval, resamples=resamples, limits=SHARE)
