"""Sensitivity at a fixed specificity: thresholds of the validation images, rates of the others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import Measured, predictions
from xraygan_metrics.operating_point import SensitivityAtSpecificity, threshold_of

from xraygan.recipe.loading import load
from xraygan.testing.runs import evaluation


def with_validation(n: int = 200) -> Measured:
    """300 measured images, and other validation images with other labels."""
    measured, other = predictions(), predictions(n)
    random = np.random.default_rng(7)
    other.probs = random.dirichlet(np.ones(3), size=n)
    measured.validation = SimpleNamespace(label_matrix=other.labels, patients=other.patients)
    measured.validation_probs = other.probs
    return measured


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.9, 0.95]),
)
def test_a_threshold_is_the_lowest_that_keeps_the_specificity(
    scores: list[int], target: float
) -> None:
    values = np.array(scores, dtype=float)
    kept = [t for t in values if np.mean(values <= t) >= target - 1e-12]
    assert threshold_of(values, target) == min(kept)


def test_the_rates_are_those_of_a_loop() -> None:
    measured = with_validation()
    validation, found = (
        measured.validation,
        SensitivityAtSpecificity(specificity=(0.8, 0.95)).compute(measured),
    )
    for target in (0.8, 0.95):
        for i, name in enumerate("ABC"):
            negatives = sorted(
                p for p, y in zip(measured.validation_probs[:, i], validation.label_matrix[:, i],
                                  strict=True) if not y
            )  # fmt: skip
            threshold = next(
                t for t in negatives
                if sum(p <= t for p in negatives) >= target * len(negatives) - 1e-9
            )  # fmt: skip
            rows = [*zip(measured.probs[:, i], measured.labels[:, i], strict=True)]
            positive = [p > threshold for p, y in rows if y]
            negative = [p <= threshold for p, y in rows if not y]
            one = found[f"sensitivity/{target:g}/{name}"]
            assert one.value == pytest.approx(np.mean(positive))
            assert f"p > {threshold:.4g}, chosen for a specificity of {target:g}" in one.note
            assert f"{len(negatives)} negative validation images of {len(negatives)}" in one.note
            reached = found[f"specificity/{target:g}/{name}"]
            assert reached.value == pytest.approx(np.mean(negative))
            for figure in (one, reached):
                assert figure.interval is not None
                assert figure.interval[0] < figure.value < figure.interval[1]
        mean = np.mean([found[f"sensitivity/{target:g}/{name}"].value for name in "ABC"])
        assert found[f"sensitivity/{target:g}/mean"].value == pytest.approx(mean)
        assert found[f"specificity/{target:g}/mean"].interval is not None


def test_few_negatives_do_not_fix_a_threshold_and_the_note_says_so() -> None:
    note = SensitivityAtSpecificity().compute(with_validation(40))["sensitivity/0.9/A"].note
    assert note.endswith("too few to fix it")
    note = SensitivityAtSpecificity().compute(with_validation(200))["sensitivity/0.9/A"].note
    assert "too few" not in note


def test_without_validation_images_there_is_no_figure_and_the_note_says_what_to_do() -> None:
    measured = predictions()
    found = SensitivityAtSpecificity(specificity=(0.9, 0.5)).compute(measured)
    assert [*found] == ["sensitivity/0.9/mean", "sensitivity/0.5/mean"]
    assert all(one.value is None and "data.validation = 0.1" in one.note for one in found.values())
    measured.split = "val"
    note = SensitivityAtSpecificity().compute(measured)["sensitivity/0.9/mean"].note
    assert "measure the test images" in note


def test_classes_without_images_of_one_kind() -> None:
    measured = with_validation()
    measured.validation.label_matrix[:, 0] = 1  # no negative to choose a threshold on
    measured.labels = measured.labels * np.array([1, 1, 0], dtype=np.uint8)  # no positive of C
    found = SensitivityAtSpecificity().compute(measured)
    assert found["sensitivity/0.9/A"].note == (
        "no validation image is negative, so there is no threshold"
    )
    assert found["sensitivity/0.9/C"].value is None
    assert found["sensitivity/0.9/C"].note == "no test image is positive"
    assert found["specificity/0.9/C"].value is not None
    assert found["sensitivity/0.9/mean"].note == "mean over 1 classes"
    assert found["specificity/0.9/mean"].note == "mean over 2 classes"


def test_the_validation_images_of_a_run_are_those_of_its_split() -> None:
    given = evaluation()
    assert given.validation is not None
    probs = given.classify(given.validation.images, real=True)[1]
    np.testing.assert_allclose(given.validation_probs, probs)
    given = evaluation()
    given.split = "val"  # they are measured, so none are left to choose on
    assert given.validation is None
    with pytest.raises(ValueError, match="no validation images"):
        _ = given.validation_probs


def test_a_specificity_outside_0_and_1_is_refused() -> None:
    table = "metrics.sensitivity_at_specificity.specificity=[0.9, 1.0]"
    with pytest.raises(Exception, match=r"metrics.sensitivity_at_specificity.*specificity"):
        load("quickstart", [table])
