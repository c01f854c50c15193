"""How often the intervals of more figures of a classifier hold the truth.

`python benchmarks/classifier_coverage.py average-precision` draws test lists of clustered patients
and counts how often the interval of the average precision holds that of an endless list. `--draws`
says how often each is drawn; docs/metrics.md has the tables. `... groups` draws two groups of
patients in which the classifier is equally good, and counts how often the interval of the
difference of their AUCs leaves out 0.
"""

from __future__ import annotations

import math
from functools import cache

import click
import numpy as np
from interval_coverage import Array, Patients, auc, drawn_scores, rate, resampled_auc
from scipy.special import ndtr, ndtri

from xraygan.statistics.intervals import (
    auc_interval,
    bootstrap_variance,
    difference_interval,
    percentile_interval,
    share_interval,
)

#: correlation of a patient's images and width of the positive scores, as for the AUC
WORLDS = ((0.0, 1.0), (0.7, 1.0), (0.5, 0.6), (0.5, 1.5), (0.7, 0.0))


# -- average precision -----------------------------------------------------------------------------


@cache
def endless_average_precision(auc: float, width: float, prevalence: float) -> float:
    """The average precision on endless patients: the integral of the precision over the recall.

    Args:
        width: as in :func:`interval_coverage.auc_covered`.
    """
    if width:  # a normal distribution for either class
        mean = float(ndtri(auc)) * math.hypot(1, width)
        threshold = np.linspace(9 + abs(mean), -9, 400_001)
        recall, false_positive = ndtr((mean - threshold) / width), ndtr(-threshold)
    else:  # some positives above all others, the rest like negatives
        false_positive = np.linspace(0, 1, 400_001)
        recall = (2 * auc - 1) + (2 - 2 * auc) * false_positive
    found, missed = prevalence * recall, (1 - prevalence) * false_positive
    precision = found / np.maximum(found + missed, 1e-300)
    return float(np.trapezoid(precision, recall) + (recall[0] if not width else 0.0))


def resampled_average_precision(truth: Array, scores: Array, weights: Array) -> Array:
    """The average precision in each resample ``(B,)``, NaN without positives, if no scores are
    equal."""
    order = np.argsort(-scores, kind="stable")
    positive = weights[:, order] * truth[order]
    found, called = np.cumsum(positive, axis=1), np.cumsum(weights[:, order], axis=1)
    with np.errstate(invalid="ignore"):
        return (positive * (found / np.maximum(called, 1))).sum(axis=1) / found[:, -1]


def average_precision_covered(
    random: np.random.Generator,
    positive: int,
    negative: int,
    auc: float,
    alike: float,
    width: float,
) -> tuple[bool, bool]:
    """Whether the score interval and the percentile interval of one test list hold the truth.

    Each patient is positive with the chance that makes ``positive`` of them expected, since the
    average precision depends on how many are; there are at least two of each kind.
    """
    prevalence = positive / (positive + negative)
    truth = endless_average_precision(auc, width, prevalence)
    count = positive + negative
    drawn = int(random.binomial(count, prevalence))
    drawn = min(max(drawn, 2), count - 2)
    patients = Patients.draw(random, drawn, count - drawn, 1.0 if alike else 0.0)
    scores = drawn_scores(random, patients, auc, alike, width)
    weights = np.vstack([np.ones_like(scores), patients.resamples(random)])
    values = resampled_average_precision(patients.truth, scores, weights)
    value, found = float(values[0]), values[1:]
    low, high = share_interval(value, bootstrap_variance(found, drawn), drawn)
    plain = percentile_interval(found) or (value, value)
    return low <= truth <= high, plain[0] <= truth <= plain[1]


# -- subgroups -------------------------------------------------------------------------------------


def group_difference_excludes_zero(
    random: np.random.Generator, positive: int, negative: int, truth: float, alike: float
) -> tuple[bool, bool]:
    """Whether the interval of the difference of two groups' AUCs leaves out 0, and the percentiles.

    The first group has some positive and negative patients, the second four times as many.
    """
    values, intervals, resamples = [], [], []
    for times in (1, 4):
        counts = (times * positive, times * negative)
        patients = Patients.draw(random, *counts, 1.0 if alike else 0.0)
        scores = drawn_scores(random, patients, truth, alike, 1.0)
        # The resamples of either group alone: one bootstrap over all patients differs little.
        found = resampled_auc(patients.truth, scores, patients.resamples(random))
        values.append(auc(patients.truth, scores))
        intervals.append(auc_interval(values[-1], bootstrap_variance(found, min(counts)), *counts))
        resamples.append(found)
    (one, other), (near, far), (first, second) = values, intervals, resamples
    low, high = difference_interval((one, other), (near, far), (first, second))
    plain = percentile_interval(first - second) or (0.0, 0.0)
    return not low <= 0 <= high, not plain[0] <= 0 <= plain[1]


# -- tables ----------------------------------------------------------------------------------------


@click.group()
def main() -> None:
    """Coverage of the intervals of a classifier's figures over patients."""


@main.command("average-precision")
@click.option("--draws", default=2000, show_default=True)
def of_average_precision(draws: int) -> None:
    """Coverage of the average precision's interval, and of the percentile bootstrap's."""
    names = " | ".join(f"alike {alike:g}, width {width:g}" for alike, width in WORLDS)
    print("| positive, negative patients | AUC | average precision | " + names + " |")
    print("| --- | --- | --- |" + " --- |" * len(WORLDS))
    for counts in ((5, 100), (10, 100), (10, 400), (20, 400), (60, 60), (270, 158)):
        for area in (0.7, 0.9, 0.98):
            random = np.random.default_rng([*counts, int(100 * area)])
            share = counts[0] / sum(counts)
            truths = [endless_average_precision(area, width, share) for _, width in WORLDS]
            cells = [
                rate([average_precision_covered(random, *counts, area, *one) for _ in range(draws)])
                for one in WORLDS
            ]
            span = f"{min(truths):.2f} to {max(truths):.2f}"
            print(
                f"| {counts[0]}, {counts[1]} | {auc} | {span} | {' | '.join(cells)} |", flush=True
            )


@main.command("groups")
@click.option("--draws", default=2000, show_default=True)
def of_groups(draws: int) -> None:
    """How often the interval of two groups that do not differ leaves out 0, and the percentiles."""
    alike = (0.0, 0.7)
    print(
        "| positive, negative patients | AUC | " + " | ".join(f"alike {x:g}" for x in alike) + " |"
    )
    print("| --- | --- | --- | --- |")
    for counts in ((5, 50), (10, 50), (20, 100), (60, 60)):
        for truth in (0.7, 0.9, 0.98):
            random = np.random.default_rng([*counts, int(100 * truth)])
            cells = [
                rate(
                    [
                        group_difference_excludes_zero(random, *counts, truth, one)
                        for _ in range(draws)
                    ]
                )
                for one in alike
            ]
            print(f"| {counts[0]}, {counts[1]} | {truth} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
