"""The metrics against scikit-learn, scipy and loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import Measured, predictions
from pytorch_fid import inception
from safetensors.torch import save_file
from scipy import linalg, stats
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score
from xraygan_metrics.classification import AUC, Classification, weighted_auc
from xraygan_metrics.distances import (
    FID,
    FrechetClassifier,
    InceptionScore,
    frechet_distance,
    inception_score,
)
from xraygan_metrics.inception import Inception

from xraygan import UserError


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 4)), min_size=1))
def test_weighted_auc_is_scikit_learns(rows: list[tuple[bool, int, int]]) -> None:
    truth, scores, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    order = np.argsort(scores)
    ours = weighted_auc(truth[order], scores[order], weights[order])
    if min((weights * truth).sum(), (weights * (1 - truth)).sum()) == 0:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(roc_auc_score(truth, scores, sample_weight=weights), abs=1e-12)


def test_auc_and_its_interval() -> None:
    found = AUC().compute(predictions())
    measured = predictions()
    for i, name in enumerate("ABC"):
        value = found[f"auc/{name}"].value
        assert value == roc_auc_score(measured.labels[:, i], measured.probs[:, i])
        low, high = found[f"auc/{name}"].interval or (1, 0)
        assert low < value < high and high - low < 0.2
    mean = np.mean([found[f"auc/{name}"].value for name in "ABC"])
    assert found["auc/mean"].value == pytest.approx(mean)


def test_more_images_of_the_same_patients_add_no_certainty() -> None:
    def width(per_patient: int) -> float:
        low, high = AUC().compute(predictions(900, per_patient=per_patient))["auc/A"].interval
        return high - low

    assert width(9) > 2 * width(1)


def test_a_class_that_no_test_image_has() -> None:
    measured = predictions()
    measured.labels = np.column_stack(
        [measured.labels[:, 0], measured.labels[:, 1:].sum(1), 0 * measured.labels[:, 2]]
    )
    found = AUC().compute(measured)
    assert found["auc/C"].value is None and "0 of 300" in found["auc/C"].note
    assert found["auc/mean"].value == pytest.approx(
        np.mean([found["auc/A"].value, found["auc/B"].value])
    )
    assert Classification().compute(measured)["recall/C"].value is None


def test_classification_is_scikit_learns() -> None:
    measured = predictions()
    truth, predicted = measured.labels.argmax(1), measured.probs.argmax(1)
    found = Classification().compute(measured)
    assert found["accuracy"].value == pytest.approx(accuracy_score(truth, predicted))
    for i, name in enumerate("ABC"):
        for figure, score in (("precision", precision_score), ("recall", recall_score)):
            expected = score(truth, predicted, labels=[i], average="macro")
            assert found[f"{figure}/{name}"].value == pytest.approx(expected)
    matrix = np.zeros((3, 3), dtype=int)
    for t, p in zip(truth, predicted, strict=True):
        matrix[t, p] += 1
    assert found["confusion_matrix"].value == matrix.tolist()


def test_many_labels_are_measured_at_one_half() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=np.uint8)
    probs = np.array([[0.9, 0.1], [0.48, 0.8], [0.3, 0.52], [0.1, 0.7]])
    measured = Measured(
        ("A", "B"), exclusive=False, labels=labels, probs=probs, patients=np.array(list("wxyz"))
    )
    found = Classification().compute(measured)
    assert found["accuracy"].value == pytest.approx(6 / 8)
    assert found["precision/B"].value == pytest.approx(2 / 3)
    assert found["recall/A"].value == pytest.approx(1 / 2)
    assert "confusion_matrix" not in found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 3, 12, 33])
def test_inception_score_is_eq_3(seed: int, n: int) -> None:
    probs = np.random.default_rng(seed).dirichlet([0.3] * 4, size=n)
    marginal = [sum(float(row[k]) for row in probs) / n for k in range(4)]
    total = 0.0
    for row in probs:
        for p, q in zip(row, marginal, strict=True):
            if p > 0:
                total += float(p) * (math.log(p) - math.log(q))
    assert inception_score(probs) == pytest.approx(math.exp(total / n), rel=1e-9)


def test_inception_score_of_perfect_and_of_collapsed_batches() -> None:
    assert inception_score(np.eye(4)) == pytest.approx(4)
    assert inception_score(np.tile(np.eye(4)[:1], (5, 1))) == pytest.approx(1)
    # A resample without the one image of a class is a score of the other classes, not undefined.
    assert inception_score(np.eye(4), np.array([1.0, 2, 1, 0])) == pytest.approx(2 * 2**0.5)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 6), (40, 60, 6), (33, 7, 5)])
def test_frechet_distance_is_eq_4(n: int, m: int, d: int) -> None:
    random = np.random.default_rng(n)
    real = random.normal(size=(n, d)) @ random.normal(size=(d, d))
    made = random.normal(size=(m, d)) @ random.normal(size=(d, d)) + 1
    mu, sigma = [], []
    for sample in (real, made):  # the definitions, entry by entry
        mean = [math.fsum(sample[:, j]) / len(sample) for j in range(d)]
        mu.append(mean)
        sigma.append(
            [
                [
                    math.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in sample)
                    / (len(sample) - 1)
                    for j in range(d)
                ]
                for i in range(d)
            ]
        )
    root = linalg.sqrtm(np.array(sigma[0]) @ np.array(sigma[1]))
    expected = sum((a - b) ** 2 for a, b in zip(*mu, strict=True))
    expected += (
        np.trace(np.array(sigma[0])) + np.trace(np.array(sigma[1])) - 2 * np.trace(root).real
    )
    assert frechet_distance(real, made) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_with_fewer_images_than_dimensions() -> None:
    random = np.random.default_rng(0)
    real, made = random.normal(size=(20, 64)), random.normal(size=(15, 64)) + 0.5
    tiny = 1e-10 * np.eye(64)  # makes sqrtm's problem regular
    root = linalg.sqrtm((np.cov(real.T) + tiny) @ (np.cov(made.T) + tiny))
    expected = np.square(real.mean(0) - made.mean(0)).sum()
    expected += np.trace(np.cov(real.T)) + np.trace(np.cov(made.T)) - 2 * np.trace(root).real
    assert frechet_distance(real, made) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


def test_distances_name_their_network_and_have_intervals() -> None:
    random = np.random.default_rng(0)
    measured = Measured(
        ("A", "B"),
        fake_probs=random.dirichlet([1, 1], size=100),
        reference_features=random.normal(size=(100, 8)),
        fake_features=random.normal(size=(100, 8)) + 1,
    )
    frechet = FrechetClassifier().compute(measured)["frechet_classifier"]
    low, high = frechet.interval or (0, 0)
    assert low < frechet.value < high and "not FID" in frechet.note
    real, made = measured.reference_features, measured.fake_features
    left = [frechet_distance(real, np.delete(made, range(i, i + 10), 0)) for i in range(0, 100, 10)]
    error = math.sqrt(9 / 10 * sum((one - sum(left) / 10) ** 2 for one in left))
    assert high - low == pytest.approx(2 * stats.t(9).ppf(0.975) * error)
    score = InceptionScore().compute(measured)["inception_score_classifier"]
    assert score.interval and score.interval[0] < score.value < score.interval[1]


def test_fid_without_its_weights_is_left_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    found = FID().compute(Measured(("A", "B")))["fid"]
    assert found.value is None and "metrics.fid.weights=PATH" in found.note


def test_fid_downloads_what_it_can_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-fid's own call would unpickle an unchecked file."""
    asked: dict[str, object] = {}

    def fetch(url: str, **how: object) -> None:
        asked.update(how, url=url)
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    FID().compute(Measured(("A", "B")))
    assert asked["url"] == inception.FID_WEIGHTS_URL
    assert asked["weights_only"] is True and asked["check_hash"] is True


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Random weights in the published layout."""
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    for parameter in network.parameters():
        if parameter.ndim == 4:  # else the features would be of the size of rounding
            torch.nn.init.kaiming_normal_(parameter)
    return network.state_dict()


def test_inception_is_pytorch_fids(
    published: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(published, tmp_path / "inception.safetensors")
    ours = Inception(weights=tmp_path / "inception.safetensors").eval()
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: published)
    images = torch.randint(0, 256, (2, 40, 40), dtype=torch.uint8)
    with torch.no_grad():
        theirs = inception.InceptionV3(range(4)).eval()(images[:, None].repeat(1, 3, 1, 1) / 255)
    theirs[3] = theirs[3].flatten(1)
    found = ours(images[:, None] / 127.5 - 1)
    for map_, expected in zip(found.values(), theirs, strict=True):
        torch.testing.assert_close(map_, expected, rtol=1e-4, atol=1e-4)
    extracted = Measured(("A",)).extract(ours, images)
    np.testing.assert_allclose(extracted, theirs[3].double(), rtol=1e-4, atol=1e-4)
    save_file({"fc.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match="not the weights of pytorch-fid"):
        Inception(weights=tmp_path / "wrong.safetensors")


@pytest.mark.slow
def test_fid_reads_local_weights(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """As .pth and as .safetensors, the same FID."""
    save_file(published, tmp_path / "inception.safetensors")
    torch.save(published, tmp_path / "inception.pth")
    images = torch.randint(0, 256, (6, 32, 32), dtype=torch.uint8)
    values = []
    for name in ("inception.safetensors", "inception.pth"):
        measured = Measured(("A", "B"), fake_images=images, reference_images=images.flip(0) // 2)
        values.append(FID(weights=tmp_path / name).compute(measured)["fid"].value)
    assert values[0] == values[1] > 0
