"""Metrics of the classifier on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import roc_auc_score

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import auc_interval, bootstrap_variance, mean_interval, share_interval

#: number of patients of a class below which the interval of its AUC is untested (docs/metrics.md)
FEW = 5
SHARE = (0.0, 1.0)


def weighted_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve with image weights; NaN if a class has no weight.

    In the Mann-Whitney form: P(score of a positive > score of a negative) + P(equal scores) / 2.
    The scores come sorted, so that a bootstrap sorts once for thousands of weightings.

    Args:
        truth: ``(N,)`` 0/1, in the order of the scores.
        scores: ``(N,)``, in rising order.
        weights: ``(N,)``, at least 0.
    """
    positive, negative = weights * truth, weights * (1 - truth)
    total = positive.sum() * negative.sum()
    if total == 0:
        return float("nan")
    # Sum the weights of each run of equal scores, so that ties count as half.
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    tied_positive, tied_negative = (
        np.add.reduceat(positive, first),
        np.add.reduceat(negative, first),
    )
    below = np.cumsum(tied_negative) - tied_negative
    return float((tied_positive * (below + tied_negative / 2)).sum() / total)


class AUC(Metric):
    """Area under the ROC curve of each class against the rest, and the mean over classes

    The ROC curve is the true positive rate as a function of the false positive rate. The rest are
    the other classes of the recipe. A class has no AUC if all or none of the test images have it.
    Intervals are score intervals over patients (Newcombe's, scaled to the variance in a bootstrap),
    which hold their level with five positive patients and for an AUC of 1. The interval of the mean
    combines those of the classes (Zou's).

    Source: scikit-learn's roc_auc_score; the paper's Tabs. 2, 4, 5, 6 and 9; Newcombe, Statistics
    in Medicine 25 (2006), method 5; Zou, Psychological Methods 12 (2007).
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        return auc_of(evaluation, evaluation.probs)


def auc_of(evaluation: Evaluation, probs: np.ndarray) -> dict[str, Measurement]:
    """The AUC of each class and their mean, from probabilities ``(N, K)`` of the test images."""
    return by_class(evaluation, probs, "auc", _auc)


#: a figure of one class, from the labels and the probabilities ``(N,)`` of the test images
OfClass = Callable[[Evaluation, np.ndarray, np.ndarray], Measurement]
#: what a note calls a figure that a class does not have
_CALLED = {"auc": "AUC", "average_precision": "average precision"}


def by_class(
    evaluation: Evaluation, probs: np.ndarray, figure: str, measure: OfClass
) -> dict[str, Measurement]:
    """A figure in [0, 1] of each class that some of the test images have, and their mean.

    Args:
        probs: ``(N, K)``, of the test images.
        figure: its name, ``"auc"`` for ``auc/CLASS`` and ``auc/mean``.
    """
    figures: dict[str, Measurement] = {}
    known: list[Measurement] = []
    n = len(evaluation.labels)
    for name, column in evaluation.classes.items():
        truth, scores = evaluation.labels[:, column], probs[:, column]
        if len(np.unique(truth)) < 2:
            note = f"{int(truth.sum())} of {n} {evaluation.kind} images have it: "
            note += f"no {_CALLED[figure]}"
            figures[f"{figure}/{name}"] = Measurement(None, n, note=note)
            continue
        figures[f"{figure}/{name}"] = measure(evaluation, truth, scores)
        known.append(figures[f"{figure}/{name}"])
    if known:
        figures[f"{figure}/mean"] = class_mean(known, f"mean over {len(known)} classes")
    return figures


def _auc(evaluation: Evaluation, truth: np.ndarray, scores: np.ndarray) -> Measurement:
    """The AUC of one class on all images."""
    measured = auc_among(evaluation, truth, scores, np.ones(len(truth), dtype=bool))
    patients = len(np.unique(evaluation.patients[truth == 1]))
    note = f"one against the rest, {int(truth.sum())} positive images of {patients} patients"
    negatives = len(np.unique(evaluation.patients[truth == 0]))
    if min(patients, negatives) < FEW:
        note += ": too few for its interval to be trusted"
    return replace(measured, note=note)


def auc_among(
    evaluation: Evaluation, truth: np.ndarray, scores: np.ndarray, rows: np.ndarray
) -> Measurement:
    """The AUC of one class among some images; its interval accounts for the positive patients.

    Args:
        truth, scores: ``(N,)``, labels and probabilities of the images that are measured.
        rows: ``(N,)`` bool, the images that count, some of them positive and some negative.
    """
    order = np.flatnonzero(rows)[np.argsort(scores[rows], kind="stable")]
    rising = (truth[order].astype(np.float64), scores[order])
    counts = [len(np.unique(evaluation.patients[rows & (truth == label)])) for label in (1, 0)]
    value = float(roc_auc_score(truth[rows], scores[rows]))
    measured = evaluation.over_patients(
        value, lambda w: weighted_auc(*rising, w[order]), n=int(rows.sum())
    )
    return with_interval(
        measured, lambda variance: auc_interval(value, variance, *counts), min(counts)
    )


def class_mean(known: Sequence[Measurement], note: str) -> Measurement:
    """The mean over classes of a figure in [0, 1], measured on the same test images."""
    values = [float(one.value) for one in known if isinstance(one.value, float)]
    intervals = [one.interval for one in known if one.interval is not None]
    resamples = [one.resamples for one in known if one.resamples is not None]
    complete = len(intervals) == len(resamples) == len(known)
    return replace(
        known[0],
        value=float(np.mean(values)),
        interval=mean_interval(values, intervals, resamples) if complete else None,
        note=note,
        resamples=np.mean(resamples, axis=0) if len(resamples) == len(known) else None,
    )


def with_interval(
    measured: Measurement, interval: Callable[[float], tuple[float, float]], patients: int
) -> Measurement:
    """Replace the interval of a figure in [0, 1].

    Args:
        interval: computes the interval from the variance over patients.
        patients: number of patients, of the smaller class if there are two.
    """
    if measured.resamples is None or not len(measured.resamples):
        return replace(measured, limits=SHARE)  # [evaluation] bootstrap = 0: no interval
    variance = bootstrap_variance(measured.resamples, patients)
    return replace(measured, interval=interval(variance), limits=SHARE)


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions of the test images, for the C classes that are measured.

    Attributes:
        truth: ``(N, C)`` 0/1, the labels.
        probs: ``(N, C)``, the probabilities.
        predicted: ``(N, C)`` uint8, the predicted labels.
        counted: ``(N,)`` 0/1, the images to count: if classes are exclusive, those with exactly one
            label.
        exclusive: whether classes are exclusive.
    """

    truth: np.ndarray
    probs: np.ndarray
    predicted: np.ndarray
    counted: np.ndarray
    exclusive: bool

    @classmethod
    def of(cls, evaluation: Evaluation, probs: np.ndarray) -> Predictions:
        """Predict labels from probabilities ``(N, K)`` of the test images."""
        columns = list(evaluation.classes.values())
        truth, probs = evaluation.labels[:, columns], probs[:, columns]
        exclusive = evaluation.task.exclusive
        counted = np.ones(len(truth))
        predicted = (probs > 0.5).astype(np.uint8)
        if exclusive:
            counted = (truth.sum(axis=1) == 1).astype(np.float64)
            predicted = np.eye(len(columns), dtype=np.uint8)[probs.argmax(axis=1)]
        return cls(truth, probs, predicted, counted, exclusive)

    def accuracy(self, evaluation: Evaluation) -> Measurement:
        """The share of images, or of findings, with the right prediction."""
        if not self.counted.any():
            return Measurement(None, 0, note=f"no {evaluation.kind} image has one of the classes")
        right = self.truth == self.predicted
        share = (right.all(axis=1) if self.exclusive else right.mean(axis=1)).astype(np.float64)
        note = "of images" if self.exclusive else "mean over findings, at 0.5"
        measured = ratio(evaluation, share * self.counted, self.counted, note)
        return replace(measured, n=int(self.counted.sum()))


_BASE = {"precision": "predicted as", "recall": "of"}


class Classification(Metric):
    """Accuracy, precision and recall of each class, and the confusion matrix

    For exclusive classes the prediction is the likeliest class, and images with none or several of
    the classes are left out. For findings the prediction is every finding above 0.5, the accuracy
    is the mean over findings, and there is no confusion matrix. Precision is TP / (TP + FP) and
    recall TP / (TP + FN) (Eqs. 12 and 13). Intervals are score intervals over patients (Wilson's,
    scaled to the variance in a bootstrap), which hold their level for few patients and for shares
    of 0 and 1.

    Source: the paper's Tabs. 1, 3, 7 and 8; Wilson, JASA 22 (1927).
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        predictions = Predictions.of(evaluation, evaluation.probs)
        truth, predicted, counted = predictions.truth, predictions.predicted, predictions.counted
        figures = {"accuracy": predictions.accuracy(evaluation)}
        if not counted.any():
            return figures
        for i, name in enumerate(evaluation.classes):
            both = (truth[:, i] & predicted[:, i]) * counted
            for figure, base in (("precision", predicted[:, i]), ("recall", truth[:, i])):
                note = f"of {int(base @ counted)} that are {_BASE[figure]} it"
                figures[f"{figure}/{name}"] = ratio(evaluation, both, base * counted, note)
        if evaluation.task.exclusive:
            matrix = (truth * counted[:, None]).T.astype(np.int64) @ predicted
            note = "rows: truth, columns: prediction; " + ", ".join(evaluation.classes)
            figures["confusion_matrix"] = Measurement(
                matrix.tolist(), int(counted.sum()), note=note
            )
        n = int(counted.sum())
        return {name: replace(measured, n=n) for name, measured in figures.items()}


def ratio(evaluation: Evaluation, part: np.ndarray, base: np.ndarray, note: str) -> Measurement:
    """The weighted sum of ``part`` over the weighted sum of ``base``, with an interval.

    Args:
        part: ``(N,)``, from 0 to ``base``: 1 for a right prediction, for example.
        base: ``(N,)``, at least 0: 0 for an image that does not count.
    """

    def share(weights: np.ndarray) -> float:
        total = weights @ base
        return float(weights @ part / total) if total else float("nan")

    if not base.any():
        none = f"no {evaluation.kind} image is"
        return Measurement(None, 0, note=note.replace("of 0 that are", none))
    value = share(np.ones(len(base)))
    patients = len(np.unique(evaluation.patients[base > 0]))
    return with_interval(
        evaluation.over_patients(value, share, note),
        lambda variance: share_interval(value, variance, patients),
        patients,
    )
