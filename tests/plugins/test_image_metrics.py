"""MS-SSIM against a loop, what a fresh classifier learns, and the audit's copies as a metric."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from xraygan_metrics.copies import Copies
from xraygan_metrics.diversity import EXPONENTS, MSSSIM, ms_ssim, scales
from xraygan_metrics.fresh import ClassificationAccuracyScore

from xraygan.audit.held_out import HeldOut
from xraygan.data.image_splits import StoredImages
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.evaluation.generation import Generated
from xraygan.testing.runs import evaluation

# -- MS-SSIM ---------------------------------------------------------------------------------------


def similarity(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """Luminance, and contrast times structure, window by window (Wang et al., Eqs. 1 to 6)."""
    weights = [
        [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)
    ]
    w = np.array(weights) / np.sum(weights)
    luminance, structure = [], []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = float((w * a).sum()), float((w * b).sum())
            var_a, var_b = (w * (a - mean_a) ** 2).sum(), (w * (b - mean_b) ** 2).sum()
            cov = (w * (a - mean_a) * (b - mean_b)).sum()
            luminance.append((2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4))
            structure.append(float((2 * cov + 9e-4) / (var_a + var_b + 9e-4)))
    return luminance, structure


def by_the_paper(x: np.ndarray, y: np.ndarray, count: int) -> float:
    product = 1.0
    for j in range(count):
        luminance, structure = similarity(x, y)
        terms = [a * b for a, b in zip(luminance, structure, strict=True)]
        mean = np.mean(terms if j == count - 1 else structure)
        product *= max(float(mean), 0.0) ** (EXPONENTS[j] / sum(EXPONENTS[:count]))
        x, y = (
            np.array(
                [
                    [
                        image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean()
                        for c in range(len(image) // 2)
                    ]
                    for r in range(len(image) // 2)
                ]
            )
            for image in (x, y)
        )
    return product


@pytest.mark.parametrize(("size", "count"), [(16, 1), (23, 2), (48, 3)])
def test_ms_ssim_is_that_of_a_loop(size: int, count: int) -> None:
    random = np.random.default_rng(size)
    x = random.uniform(size=(2, size, size))
    y = np.clip(x + random.normal(size=x.shape) * np.array([0.1, 0.5])[:, None, None], 0, 1)
    assert scales(size) == count
    found = ms_ssim(*(torch.from_numpy(image)[:, None] for image in (x, y)))
    expected = [by_the_paper(a, b, count) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[0] > found[1]


def test_an_image_is_wholly_like_itself_and_its_negative_not_at_all() -> None:
    images = torch.rand(3, 1, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ms_ssim(images, images), torch.ones(3, dtype=torch.float64))
    assert ms_ssim(images, 1 - images).max() == 0


def test_scales_are_as_many_as_hold_the_window() -> None:
    assert [scales(s) for s in (10, 11, 32, 64, 128, 256, 1024)] == [0, 1, 2, 3, 4, 5, 5]


def test_pairs_are_of_one_class_and_share_no_image() -> None:
    """Each class has a picture of its own, so pairs within classes are of the same picture."""
    given = evaluation()
    pictures = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    classes = torch.arange(48) % 3
    labels = torch.eye(3, dtype=torch.uint8)[classes]
    given._generated = Generated(pictures[classes], labels, torch.zeros(len(classes), 0))
    found = MSSSIM().compute(given)
    for name in given.classes:
        alike = found[f"ms_ssim/generated/{name}"]
        assert alike.value == pytest.approx(1) and alike.n == 16 and alike.interval is None
    every = found["ms_ssim/generated"]
    assert every.n == 48 and every.interval[0] < every.value < every.interval[1] < 1
    assert MSSSIM(pairs=5).compute(given)["ms_ssim/generated"].n == 10
    given.graph.networks["generator"].conditional = False
    assert set(MSSSIM().compute(given)) == {"ms_ssim/generated", "ms_ssim/real"}


# -- what a fresh classifier learns ----------------------------------------------------------------


def bright(given: RunEvaluation, *, right: bool) -> RunEvaluation:
    """Images as bright as their class; generated ones labelled so, or each as the next class."""
    levels = torch.tensor([20, 120, 220], dtype=torch.uint8)
    truth = torch.from_numpy(given.test.label_matrix.argmax(axis=1))
    pixels = levels[truth][:, None, None].expand(-1, 32, 32).clone()
    given.test = replace(given.test, images=StoredImages(pixels, torch.arange(len(truth))))
    classes = torch.arange(48) % 3
    made = levels[classes][:, None, None].expand(-1, 32, 32).clone()
    labels = torch.eye(3, dtype=torch.uint8)[(classes + (0 if right else 1)) % 3]
    given._generated = Generated(made, labels, torch.zeros(len(made), 0))
    return given


def test_a_fresh_classifier_knows_what_generated_labels_say() -> None:
    metric = ClassificationAccuracyScore(steps=150, lr=0.01)
    good, bad = (metric.compute(bright(evaluation(), right=right)) for right in (True, False))
    assert good["cas/accuracy"].value == 1 and good["cas/auc/mean"].value == 1
    assert bad["cas/accuracy"].value == 0
    assert "made for" in good["cas/accuracy"].note and good["cas/accuracy"].resamples is not None


def test_it_is_trained_anew_from_its_seed_and_leaves_the_runs_classifier() -> None:
    given = bright(evaluation(), right=True)
    before = {k: v.clone() for k, v in given.graph.networks["classifier"].state_dict().items()}

    def weights(seed: int) -> torch.Tensor:
        metric = ClassificationAccuracyScore(steps=2, seed=seed)
        network = metric._train(given, given.fake_labels)
        return nn.utils.parameters_to_vector(network.parameters())

    torch.testing.assert_close(weights(0), weights(0), rtol=0, atol=0)
    assert not torch.equal(weights(0), weights(1))
    for name, value in given.graph.networks["classifier"].state_dict().items():
        assert torch.equal(value, before[name])


def test_an_unconditional_generator_is_labelled_by_the_runs_classifier() -> None:
    given = bright(evaluation(), right=False)
    given.graph.networks["generator"].conditional = False
    taken = torch.arange(48).numpy() % 3  # which is right, as the conditions are not
    given._fake_classified = (np.zeros((48, 1)), np.eye(3)[taken])
    found = ClassificationAccuracyScore(steps=150, lr=0.01).compute(given)["cas/accuracy"]
    assert found.value == 1 and "classified by the run's classifier" in found.note


# -- copies ----------------------------------------------------------------------------------------


def test_planted_copies_are_counted_as_the_audit_counts_them() -> None:
    given = evaluation()
    made = given.fake_images.clone()
    made[:12] = given.train.images[torch.arange(12)]
    given._generated = Generated(made, given.fake_labels, torch.zeros(len(made), 0))
    found = Copies(features=True).compute(given)
    pixels = found["copies/pixels"]
    assert pixels.value == 0.5 and pixels.n == 24 and pixels.better == "lower"
    assert "12 of 24 generated images are flagged in pixels" in pixels.note
    assert "verdict: copies" in pixels.note
    assert pixels.interval[0] < 0.5 < pixels.interval[1]
    assert "copies/features" in found
    assert set(Copies(generated=10).compute(given)) == {"copies/pixels"}
    assert Copies(generated=10).compute(given)["copies/pixels"].value == 1


def test_of_too_few_images_there_is_no_figure_as_the_audit_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None flagged of images of which none could be would read as if nothing were copied."""
    given = evaluation()
    made = given.train.images[torch.arange(len(given.fake_images)) % 3]
    given._generated = Generated(made, given.fake_labels, torch.zeros(len(made), 0))
    found = Copies().compute(given)["copies/pixels"]
    assert found.value is not None and "images are held out: " in found.note
    assert "could not be distinguished" in found.note
    held = HeldOut.draw(given.train, given.test, np.random.default_rng(0))
    monkeypatch.setattr(HeldOut, "draw", lambda *_: replace(held, rows=held.rows[:1]))
    found = Copies(generated=4).compute(given)["copies/pixels"]
    assert found.value is None and found.interval is None and found.n == 4
    assert "with 4 generated and 1 held-out images no number of copies" in found.note
    assert found.note.endswith("verdict: few")


def test_without_held_out_images_there_is_no_figure() -> None:
    given = evaluation()
    given.test = replace(given.test, label_matrix=np.zeros_like(given.test.label_matrix))
    found = Copies().compute(given)["copies/pixels"]
    assert found.value is None and "no test image has the labels" in found.note
