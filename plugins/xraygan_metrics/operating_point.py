"""Sensitivity and specificity at a threshold that was chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from xraygan import Evaluation, Measurement, Metric

from .classification import class_mean, ratio

#: negative validation images above a threshold, below which their number hardly fixes it
FEW_ABOVE = 5
Specificity = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Threshold:
    """A threshold of one class: an image counts as positive if its probability is above it.

    Attributes:
        value: in [0, 1].
        target: the specificity that it was chosen for.
        negatives: number of negative validation images that it was chosen on.
        patients: the number of their patients.
    """

    value: float
    target: float
    negatives: int
    patients: int

    @property
    def note(self) -> str:
        """How it was chosen."""
        few = ""
        if (1 - self.target) * self.negatives < FEW_ABOVE:
            few = ", too few to fix it"
        return (
            f"p > {self.value:.4g}, chosen for a specificity of {self.target:g} on "
            f"{self.negatives} negative validation images of {self.patients} patients{few}"
        )


def threshold_of(negatives: np.ndarray, specificity: float) -> float:
    """The lowest threshold that is no lower than a share of negative probabilities ``(n,)``.

    It is the ceil(specificity n)-th lowest of them, so that at least that share is not above it.
    """
    rank = math.ceil(specificity * len(negatives) - 1e-9)  # 0.9 x 10 is not above 9
    return float(np.sort(negatives)[max(rank, 1) - 1])


def choose_thresholds(evaluation: Evaluation, specificity: float) -> dict[str, Threshold]:
    """The threshold of each class that some validation image does not have; {} without images."""
    images = evaluation.validation
    if images is None:
        return {}
    chosen = {}
    for name, column in evaluation.classes.items():
        negative = images.label_matrix[:, column] == 0
        if negative.any():
            value = threshold_of(evaluation.validation_probs[negative, column], specificity)
            patients = len(np.unique(images.patients[negative]))
            chosen[name] = Threshold(value, specificity, int(negative.sum()), patients)
    return chosen


def why_no_threshold(evaluation: Evaluation) -> str:
    """Why there are no thresholds, and what to do."""
    if evaluation.split == "val":
        return (
            "the validation images are measured, and a threshold that is chosen on the measured "
            "images is too good: measure the test images"
        )
    return (
        "there are no validation images to choose a threshold on: train with data.validation = "
        "0.1, which sets a tenth of the training patients aside"
    )


class SensitivityAtSpecificity(Metric):
    """Sensitivity at a fixed specificity, with thresholds from the validation images

    For each class against the rest the threshold is the lowest at which the given share of the
    negative validation images is not above it. `sensitivity/S/CLASS` is the share of the positive
    measured images that are above it, and `specificity/S/CLASS` the share of the negative ones that
    are not: the specificity that the threshold reaches on images that did not choose it. The note
    gives the threshold. Without validation images there is no figure.

    Intervals are score intervals over the measured patients at this threshold, as those of
    `classification`; they do not include that other validation images would choose another one.

    Source: the definitions TP / (TP + FN) and TN / (TN + FP).

    Args:
        specificity: the specificities S, each in (0, 1).
    """

    def __init__(
        self,
        *,
        specificity: Annotated[tuple[Specificity, ...], Field(min_length=1)] = (0.9,),
    ) -> None:
        self.specificity = specificity

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        figures: dict[str, Measurement] = {}
        for target in dict.fromkeys(self.specificity):
            figures |= _at(evaluation, target)
        return figures


def _at(evaluation: Evaluation, target: float) -> dict[str, Measurement]:
    """The figures at one specificity."""
    n = len(evaluation.labels)
    thresholds = choose_thresholds(evaluation, target)
    if not thresholds:
        note = why_no_threshold(evaluation)
        if evaluation.validation is not None:
            note = "no validation image is negative for a class, so none has a threshold"
        return {f"sensitivity/{target:g}/mean": Measurement(None, n, note=note)}
    figures: dict[str, Measurement] = {}
    known: dict[str, list[Measurement]] = {"sensitivity": [], "specificity": []}
    for name, column in evaluation.classes.items():
        if name not in thresholds:
            note = "no validation image is negative, so there is no threshold"
            figures[f"sensitivity/{target:g}/{name}"] = Measurement(None, n, note=note)
            continue
        truth, probs = evaluation.labels[:, column], evaluation.probs[:, column]
        for figure, one in at_threshold(evaluation, truth, probs, thresholds[name]).items():
            figures[f"{figure}/{target:g}/{name}"] = one
            known[figure] += [one] * (one.value is not None)
    for figure, measured in known.items():
        if measured:
            note = f"mean over {len(measured)} classes"
            figures[f"{figure}/{target:g}/mean"] = class_mean(measured, note)
    return figures


def at_threshold(
    evaluation: Evaluation,
    truth: np.ndarray,
    probs: np.ndarray,
    threshold: Threshold,
    rows: np.ndarray | None = None,
) -> dict[str, Measurement]:
    """``sensitivity`` and ``specificity`` of one class on the measured images, at a threshold.

    Args:
        truth, probs: ``(N,)``, labels and probabilities of the images that are measured.
        rows: ``(N,)`` bool, the images that count; all by default.
    """
    counted = np.ones(len(truth), dtype=bool) if rows is None else rows
    above = probs > threshold.value
    figures = {}
    for figure, label, right in (("sensitivity", 1, above), ("specificity", 0, ~above)):
        base = (counted & (truth == label)).astype(np.float64)
        patients = len(np.unique(evaluation.patients[base > 0]))
        kind = "positive" if label else "negative"
        note = f"of {int(base.sum())} {kind} images of {patients} patients; {threshold.note}"
        if not base.any():
            note = f"no {evaluation.kind} image is {kind}"
        measured = ratio(evaluation, right * base, base, note)
        figures[figure] = replace(measured, n=int(counted.sum()))
    return figures
