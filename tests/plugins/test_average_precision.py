"""Average precision against scikit-learn and a loop over thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import predictions
from sklearn.metrics import average_precision_score
from xraygan_metrics.average_precision import AveragePrecision, weighted_average_precision


def by_thresholds(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """The sum over thresholds of the gain of recall times the precision, written as a loop."""
    total = recall = 0.0
    positives = sum(w for w, y in zip(weights, truth, strict=True) if y)
    for threshold in sorted(set(scores), reverse=True):
        called = [(w, y) for w, y, s in zip(weights, truth, scores, strict=True) if s >= threshold]
        hits, everything = sum(w for w, y in called if y), sum(w for w, _ in called)
        if everything:
            total += (hits / positives - recall) * hits / everything
            recall = hits / positives
    return total


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 4)), min_size=1))
def test_weighted_average_precision_is_a_loops_and_scikit_learns(
    rows: list[tuple[bool, int, int]],
) -> None:
    truth, scores, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    order = np.argsort(-scores, kind="stable")
    ours = weighted_average_precision(truth[order], scores[order], weights[order])
    if (weights * truth).sum() == 0:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(by_thresholds(truth, scores, weights), abs=1e-12)
        theirs = average_precision_score(truth, scores, sample_weight=weights)
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_each_class_has_its_figure_its_interval_and_the_no_skill_value() -> None:
    measured = predictions()
    found = AveragePrecision().compute(measured)
    for i, name in enumerate("ABC"):
        one = found[f"average_precision/{name}"]
        truth = measured.labels[:, i]
        expected = average_precision_score(truth, measured.probs[:, i])
        assert one.value == pytest.approx(expected, abs=1e-12)
        assert one.interval is not None and one.interval[0] < expected < one.interval[1]
        assert f"no skill: {truth.mean():.3g}" in one.note
        assert f"the {truth.sum()} positive images of {truth.sum()} patients" in one.note
    mean = np.mean([found[f"average_precision/{name}"].value for name in "ABC"])
    assert found["average_precision/mean"].value == pytest.approx(mean)
    assert found["average_precision/mean"].interval is not None


def test_the_interval_is_of_patients_and_of_other_figures_than_1() -> None:
    def width(per_patient: int) -> float:
        measured = predictions(900, per_patient=per_patient)
        low, high = AveragePrecision().compute(measured)["average_precision/A"].interval or (1, 1)
        return high - low

    assert width(9) > 2 * width(1)
    perfect = predictions()
    perfect.probs = perfect.labels.astype(float)
    found = AveragePrecision().compute(perfect)["average_precision/A"]
    assert found.value == 1.0 and found.interval is not None
    assert found.interval[0] < 0.99 and found.interval[1] == 1.0


def test_a_class_that_no_test_image_has_and_one_of_few_patients() -> None:
    measured = predictions()
    rare = np.zeros(300, dtype=np.uint8)
    rare[:3] = 1
    measured.labels = np.column_stack([measured.labels[:, 0], rare, 0 * rare])
    found = AveragePrecision().compute(measured)
    assert found["average_precision/C"].value is None
    assert found["average_precision/C"].note == "0 of 300 test images have it: no average precision"
    assert "too few for its interval" in found["average_precision/B"].note
    assert found["average_precision/mean"].note == "mean over 2 classes"


def test_a_run_without_a_classifier_has_none() -> None:
    measured = predictions()
    del measured.graph.networks["classifier"]
    assert AveragePrecision().compute(measured) == {}
