"""Calibration against a loop over its definition, and what its intervals are of."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from measured import Measured, predictions
from sklearn.metrics import brier_score_loss
from xraygan_metrics.calibration import Binning, Calibration


def error_of(truth: np.ndarray, probs: np.ndarray, bins: int, binning: Binning) -> float:
    """Bin by bin, image by image."""
    if binning == "width":
        bounds = [b / bins for b in range(bins + 1)]
    else:
        bounds = [-1.0, *(float(np.quantile(probs, b / bins)) for b in range(1, bins)), 1.0]
    total = 0.0
    for b, (low, high) in enumerate(itertools.pairwise(bounds)):
        if binning == "width":
            inside = [low <= p < high or (b == bins - 1 and p == 1.0) for p in probs]
        else:
            inside = [low < p <= high for p in probs]
        gaps = [float(y) - float(p) for y, p, i in zip(truth, probs, inside, strict=True) if i]
        total += abs(math.fsum(gaps))
    return total / len(truth)


@pytest.mark.parametrize("binning", ["width", "mass"])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_is_that_of_a_loop(bins: int, binning: Binning) -> None:
    measured = predictions(200)
    measured.probs[0] = [1.0, 0.0, 0.0]  # the ends belong to bins too
    found = Calibration(bins=bins, binning=binning).compute(measured)
    truth, probs = measured.labels, measured.probs
    errors = [error_of(truth[:, i], probs[:, i], bins, binning) for i in range(3)]
    for i, name in enumerate("ABC"):
        assert found[f"ece/{name}"].value == pytest.approx(errors[i], abs=1e-12)
        score = brier_score_loss(truth[:, i], probs[:, i])
        assert found[f"brier/{name}"].value == pytest.approx(score)
    assert found["ece/mean"].value == pytest.approx(np.mean(errors))
    right = truth.argmax(axis=1) == probs.argmax(axis=1)
    top = error_of(right, probs.max(axis=1), bins, binning)
    assert found["ece/top"].value == pytest.approx(top, abs=1e-12)
    brier = np.square(truth - probs).sum(axis=1).mean() / 3
    assert found["brier/mean"].value == pytest.approx(brier)
    for one in found.values():
        assert one.better == "lower" and one.n == 200
        assert one.interval[0] <= one.value <= one.interval[1]


def test_resamples_are_about_the_figure_though_each_is_biased() -> None:
    """Probabilities that are right have an error by chance, and resamples of them a larger one."""
    random = np.random.default_rng(0)
    p = random.uniform(size=400)
    truth = (random.uniform(size=400) < p).astype(np.uint8)
    measured = Measured(
        ("A", "B"), exclusive=False, labels=np.column_stack([truth, 1 - truth]),
        probs=np.column_stack([p, 1 - p]), patients=np.arange(400).astype(str),
    )  # fmt: skip
    found = Calibration().compute(measured)
    error = found["ece/A"]
    assert np.mean(error.resamples) == pytest.approx(error.value)
    assert error.interval[0] < error.value < error.interval[1] < 0.1
    both = (found["ece/A"].resamples + found["ece/B"].resamples) / 2
    np.testing.assert_allclose(found["ece/mean"].resamples, both)
    assert "ece/top" not in found


def test_an_overconfident_classifier_is_told_from_a_modest_one() -> None:
    modest, sure = predictions(600), predictions(600)
    sure.probs = sure.probs**4 / (sure.probs**4).sum(axis=1, keepdims=True)
    ours, theirs = (Calibration().compute(one)["ece/top"] for one in (modest, sure))
    assert ours.interval[1] < theirs.interval[0]


def test_images_without_one_class_are_left_out() -> None:
    measured = predictions(90)
    measured.labels[:30] = 0
    measured.labels[30:40] = 1
    assert Calibration().compute(measured)["ece/top"].n == 50
    measured.labels[:] = 0
    none = Calibration().compute(measured)
    assert none["ece/mean"].value is None and "no test image" in none["ece/mean"].note
