"""Figures of the classifier by age, sex and view of the patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from xraygan import Evaluation, Measurement, Metric, UserError
from xraygan.plugin_api import SubgroupFigure, difference_interval

from .classification import auc_among, class_mean
from .operating_point import Specificity, Threshold, at_threshold, choose_thresholds

Key = Literal["age", "sex", "view"]
Age = Annotated[float, Field(gt=0, le=150)]
#: the two values of a category: its number in the metadata and its name
VALUES: dict[str, dict[float, str]] = {"sex": {0: "F", 1: "M"}, "view": {1: "PA", 0: "AP"}}
#: images with one of the values, ``(N,)`` bool, by the names of the values
Groups = dict[str, np.ndarray]


def age_bands(ages: np.ndarray, bounds: tuple[float, ...]) -> Groups:
    """Bands of ages in years ``(N,)``: ``0-17``, ``18-39``, ``40+`` for the bounds 18 and 40."""
    edges = (0.0, *bounds, np.inf)
    bands = {}
    for low, high in pairwise(edges):
        name = f"{low:g}+" if high == np.inf else f"{low:g}-{high - 1:g}"
        bands[name] = (ages >= low) & (ages < high)  # an unknown age is in none
    return bands


class Subgroups(Metric):
    """AUC, sensitivity and specificity of the classifier by age, sex and view

    `auc/CLASS[sex=F]` is the AUC of a class against the rest among the images of one group;
    `auc/mean[sex=F]` is the mean over classes, if every class has one in the group.
    `sensitivity/S/CLASS[sex=F]` and `specificity/S/CLASS[sex=F]` are measured at the threshold of
    all patients, which the validation images chose (see `sensitivity_at_specificity`); without
    validation images they are left out. `images[sex=F]` is the number of images of the group, and
    `images[sex=unknown]` of those that are in no group because the data set does not know it.

    `auc_difference/CLASS[sex=F]` is the AUC in the group less the AUC among all other images whose
    group is known. Its interval combines those of both (Zou's), with their correlation in the
    bootstrap. The differences are descriptive: there are many, and they are not adjusted for that.
    The largest of many differences is large by chance alone, so it is no test of fairness.

    Intervals are score intervals over patients, as those of `auc` and `classification`. A figure of
    fewer patients than `least` is left out, and its note gives the number.

    Source: Zou, Psychological Methods 12 (2007), for the difference; the groups of
    Seyyed-Kalantari et al., Nature Medicine 27 (2021).

    Args:
        by: what tells groups apart.
        ages: the ages in years at which a new band begins, rising whole numbers.
        specificity: the specificities S; an empty list for none.
        least: positive and negative patients, of each at least, that an AUC needs; a sensitivity
            needs as many positive patients, and a specificity as many negative ones.
    """

    def __init__(
        self,
        *,
        by: Annotated[tuple[Key, ...], Field(min_length=1)] = ("sex", "age", "view"),
        ages: tuple[Age, ...] = (18, 40, 60),
        specificity: tuple[Specificity, ...] = (0.9,),
        least: Annotated[int, Field(gt=0, le=1_000_000)] = 5,
    ) -> None:
        if any(low >= high for low, high in pairwise(ages)) or any(age % 1 for age in ages):
            raise UserError(f"ages: expected rising whole numbers of years, found {[*ages]}")
        self.by = tuple(dict.fromkeys(by))
        self.ages = ages
        self.specificity = tuple(dict.fromkeys(specificity))
        self.least = least

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if "classifier" not in evaluation.networks:
            return {}
        thresholds = {target: choose_thresholds(evaluation, target) for target in self.specificity}
        figures: dict[str, Measurement] = {}
        for key in self.by:
            groups = self._groups(evaluation, key)
            figures |= _counts(evaluation, key, groups)
            present = {group: rows for group, rows in groups.items() if rows.any()}
            aucs = {group: self._aucs(evaluation, rows) for group, rows in present.items()}
            for group, rows in present.items():
                found = aucs[group]
                for target, chosen in thresholds.items():
                    found = found | self._rates(evaluation, rows, target, chosen)
                figures |= {SubgroupFigure(f, key, group).name: one for f, one in found.items()}
            figures |= self._differences(evaluation, key, present, aucs)
        return figures

    def _groups(self, evaluation: Evaluation, key: Key) -> Groups:
        values = evaluation.test.metadata[key]
        if key == "age":
            return age_bands(values, self.ages)
        return {name: values == value for value, name in VALUES[key].items()}

    def _patients(self, evaluation: Evaluation, rows: np.ndarray) -> str:
        """Why images are of too few patients, as the end of a note; empty if there are enough."""
        patients = len(np.unique(evaluation.patients[rows]))
        return "" if patients >= self.least else f"{_of(patients)}, fewer than {self.least}"

    def _auc(self, evaluation: Evaluation, column: int, rows: np.ndarray) -> Measurement:
        """The AUC of one class among some images; no value if there are too few patients."""
        truth, n = evaluation.labels[:, column], int(rows.sum())
        for kind, label in (("positive", 1), ("negative", 0)):
            chosen = rows & (truth == label)
            if few := self._patients(evaluation, chosen):
                return Measurement(None, n, note=f"{int(chosen.sum())} {kind} images of {few}")
        measured = auc_among(evaluation, truth, evaluation.probs[:, column], rows)
        positives = rows & (truth == 1)
        patients = len(np.unique(evaluation.patients[positives]))
        note = f"{int(positives.sum())} positive images of {_of(patients)}"
        return replace(measured, note=note)

    def _aucs(self, evaluation: Evaluation, rows: np.ndarray) -> dict[str, Measurement]:
        figures = {
            f"auc/{name}": self._auc(evaluation, column, rows)
            for name, column in evaluation.classes.items()
        }
        known = [one for one in figures.values() if one.value is not None]
        if len(known) < len(figures):
            note = f"{len(figures) - len(known)} of {len(figures)} classes have no AUC here"
            return figures | {"auc/mean": Measurement(None, int(rows.sum()), note=note)}
        return figures | {"auc/mean": class_mean(known, f"mean over {len(known)} classes")}

    def _rates(
        self,
        evaluation: Evaluation,
        rows: np.ndarray,
        target: float,
        thresholds: Mapping[str, Threshold],
    ) -> dict[str, Measurement]:
        """Sensitivity and specificity of each class among some images."""
        figures = {}
        for name, threshold in thresholds.items():
            column = evaluation.classes[name]
            truth, probs = evaluation.labels[:, column], evaluation.probs[:, column]
            found = at_threshold(evaluation, truth, probs, threshold, rows)
            for figure, kind in (("sensitivity", "positive"), ("specificity", "negative")):
                chosen = rows & (truth == (kind == "positive"))
                patients = len(np.unique(evaluation.patients[chosen]))
                note = f"of {int(chosen.sum())} {kind} images of {_of(patients)}"
                one = replace(found[figure], note=note)
                if few := self._patients(evaluation, chosen):
                    note = f"{int(chosen.sum())} {kind} images of {few}"
                    one = Measurement(None, int(rows.sum()), note=note)
                figures[f"{figure}/{target:g}/{name}"] = one
        return figures

    def _differences(
        self,
        evaluation: Evaluation,
        key: str,
        groups: Groups,
        aucs: Mapping[str, Mapping[str, Measurement]],
    ) -> dict[str, Measurement]:
        """The AUC in each group less that among the others; of two groups only the first one."""
        if len(groups) < 2:
            return {}
        known = np.logical_or.reduce([*groups.values()])
        figures = {}
        for group, rows in [*groups.items()][: 1 if len(groups) == 2 else None]:
            for name, column in evaluation.classes.items():
                own = aucs[group][f"auc/{name}"]
                if own.value is None:
                    continue
                others = self._auc(evaluation, column, known & ~rows)
                if others.value is not None:
                    figure = SubgroupFigure(f"auc_difference/{name}", key, group).name
                    figures[figure] = difference(own, others)
        return figures


def difference(first: Measurement, second: Measurement) -> Measurement:
    """A figure of some images less that of others, with an interval over the patients of both."""
    assert isinstance(first.value, float) and isinstance(second.value, float)
    value, interval, resamples = first.value - second.value, None, None
    if first.resamples is not None and second.resamples is not None:
        resamples = first.resamples - second.resamples
        if first.interval and second.interval:
            interval = difference_interval(
                (first.value, second.value),
                (first.interval, second.interval),
                (first.resamples, second.resamples),
            )
    note = f"AUC less that of {second.n:,} images of other groups; descriptive, not adjusted"
    return Measurement(value, first.n, interval, note, resamples, limits=(-1.0, 1.0))


def _counts(evaluation: Evaluation, key: str, groups: Groups) -> dict[str, Measurement]:
    """The number of images in each group and in none."""
    n = len(evaluation.labels)
    unknown = ~np.logical_or.reduce([*groups.values()])
    figures = {}
    for group, rows in {**groups, "unknown": unknown}.items():
        patients = len(np.unique(evaluation.patients[rows]))
        note = f"of {n:,} {evaluation.kind} images; {_of(patients)}"
        if group == "unknown" and unknown.all():
            note = f"the data set gives the {key} of no {evaluation.kind} image, so there are no "
            note += f"figures by {key}"
        elif group == "unknown":
            note = f"their {key} is unknown, so they are in no group; {_of(patients)}"
        figures[SubgroupFigure("images", key, group).name] = Measurement(
            int(rows.sum()), n, note=note
        )
    if unknown.all():
        return {name: one for name, one in figures.items() if name.endswith("=unknown]")}
    return figures


def _of(patients: int) -> str:
    return f"{patients:,} patient{'' if patients == 1 else 's'}"
