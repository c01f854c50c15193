"""Metrics of the classifier on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sklearn.metrics import roc_auc_score

from xraygan import Measurement, Metric
from xraygan.evaluate import Evaluation

#: positive patients below which a bootstrap over patients says too little
FEW = 10


def weighted_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve with image weights, NaN where a class has no weight.

    P(score of a positive > that of a negative) + P(they are equal) / 2, the Mann-Whitney form, for
    the bootstrap: one sort serves thousands of weightings when ``scores`` comes sorted.

    Args:
        truth: ``(N,)`` 0/1, in the order of rising scores.
        scores: ``(N,)``, rising.
        weights: ``(N,)``, at least 0.
    """
    positive, negative = weights * truth, weights * (1 - truth)
    total = positive.sum() * negative.sum()
    if total == 0:
        return float("nan")
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])  # of each run of equal scores
    tied_positive, tied_negative = (
        np.add.reduceat(positive, first),
        np.add.reduceat(negative, first),
    )
    below = np.cumsum(tied_negative) - tied_negative
    return float((tied_positive * (below + tied_negative / 2)).sum() / total)


class AUC(Metric):
    """Area under the ROC curve of each class, one against the rest, and their mean

    The ROC curve is the true positive rate as a function of the false positive rate. The rest are
    the other classes of the recipe. Intervals are bootstraps over patients. A class that all or
    none of the test images have has no AUC.

    Source: scikit-learn's roc_auc_score; the paper's Tabs. 2, 4, 5, 6 and 9.
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.graph.networks:
            return {}
        return auc_of(evaluation, evaluation.probs)


def auc_of(evaluation: Evaluation, probs: np.ndarray) -> dict[str, Measurement]:
    """The AUC of each class and their mean, of probabilities ``(N, K)`` for the test images."""
    found: dict[str, Measurement] = {}
    n = len(evaluation.labels)
    sorted_classes = []
    for name, column in evaluation.classes.items():
        truth, scores = evaluation.labels[:, column], probs[:, column]
        if len(np.unique(truth)) < 2:
            note = f"{int(truth.sum())} of {n} {evaluation.kind} images have it: no AUC"
            found[f"auc/{name}"] = Measurement(None, n, note=note)
            continue
        order = np.argsort(scores, kind="stable")
        one = (truth[order].astype(np.float64), scores[order], order)
        sorted_classes.append(one)
        found[f"auc/{name}"] = evaluation.over_patients(
            float(roc_auc_score(truth, scores)),
            partial(_of, one),
            _positives(truth, evaluation.patients),
        )
    values = [m.value for m in found.values() if isinstance(m.value, float)]
    if values:
        found["auc/mean"] = evaluation.over_patients(
            float(np.mean(values)),
            lambda weights: float(np.mean([_of(one, weights) for one in sorted_classes])),
            f"mean over {len(values)} classes",
        )
    return found


def _positives(truth: np.ndarray, patients: np.ndarray) -> str:
    """How many positive images of how many patients, for a few tell little of other patients."""
    count = len(np.unique(patients[truth == 1]))
    note = f"one against the rest, {int(truth.sum())} positive images of {count} patients"
    return note + (": too few for its interval to be trusted" if count < FEW else "")


def _of(one: tuple[np.ndarray, np.ndarray, np.ndarray], weights: np.ndarray) -> float:
    truth, scores, order = one
    return weighted_auc(truth, scores, weights[order])


@dataclass(frozen=True)
class Judged:
    """The test images' labels beside what is predicted for them, of the recipe's classes.

    Attributes:
        truth, probs: ``(N, C)``, C columns of the labels and probabilities.
        predicted: ``(N, C)`` uint8.
        counted: ``(N,)`` 0/1: where classes exclude each other, 1 for images with exactly one.
    """

    truth: np.ndarray
    probs: np.ndarray
    predicted: np.ndarray
    counted: np.ndarray
    exclusive: bool

    @classmethod
    def of(cls, evaluation: Evaluation, probs: np.ndarray) -> Judged:
        """Judge probabilities ``(N, K)`` for the test images."""
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
        """The share of images, or of findings, that are predicted right."""
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

    Where classes exclude each other the likeliest is predicted, and images that have none or
    several of the classes are left out; else each finding above 0.5 is predicted, the accuracy is
    the mean over findings, and there is no confusion matrix. Precision is TP / (TP + FP) and recall
    TP / (TP + FN) (Eqs. 12 and 13). Intervals are bootstraps over patients.

    Source: the paper's Tabs. 1, 3, 7 and 8.
    """

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.graph.networks:
            return {}
        judged = Judged.of(evaluation, evaluation.probs)
        truth, predicted, counted = judged.truth, judged.predicted, judged.counted
        found = {"accuracy": judged.accuracy(evaluation)}
        if not counted.any():
            return found
        for i, name in enumerate(evaluation.classes):
            both = (truth[:, i] & predicted[:, i]) * counted
            for figure, base in (("precision", predicted[:, i]), ("recall", truth[:, i])):
                note = f"of {int(base @ counted)} that are {_BASE[figure]} it"
                found[f"{figure}/{name}"] = ratio(evaluation, both, base * counted, note)
        if evaluation.task.exclusive:
            matrix = (truth * counted[:, None]).T.astype(np.int64) @ predicted
            note = "rows: truth, columns: prediction; " + ", ".join(evaluation.classes)
            found["confusion_matrix"] = Measurement(matrix.tolist(), int(counted.sum()), note=note)
        n = int(counted.sum())
        return {name: replace(measured, n=n) for name, measured in found.items()}


def ratio(evaluation: Evaluation, part: np.ndarray, base: np.ndarray, note: str) -> Measurement:
    """Weighted sum of ``part`` over that of ``base``: what is right over all that counts."""

    def share(weights: np.ndarray) -> float:
        total = weights @ base
        return float(weights @ part / total) if total else float("nan")

    if not base.any():
        none = f"no {evaluation.kind} image is"
        return Measurement(None, 0, note=note.replace("of 0 that are", none))
    return evaluation.over_patients(share(np.ones(len(base))), share, note)
