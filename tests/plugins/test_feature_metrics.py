"""The metrics of features against loops over their papers' definitions, and whose features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import Measured
from torch import Tensor, nn
from xraygan_metrics import kernel, manifold
from xraygan_metrics.distances import Frechet, FrechetPerClass, frechet_distance
from xraygan_metrics.intervals import with_jackknife
from xraygan_metrics.kernel import KID
from xraygan_metrics.manifold import DensityCoverage, PrecisionRecall

from xraygan import Extractor, Metric, Task, UserError
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.evaluation.generation import Generated
from xraygan.graph.build import assemble, dry_build
from xraygan.parts.weights import weights_digest
from xraygan.recipe.loading import load
from xraygan.testing import check_metric
from xraygan.testing.runs import evaluation

METRICS: list[type[Metric]] = [KID, Frechet, FrechetPerClass, PrecisionRecall, DensityCoverage]


def two_samples(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A sample, and one that is moved and narrower."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), 0.9 * random.normal(size=(m, d)) + 0.7


def measured(real: np.ndarray, made: np.ndarray) -> Measured:
    return Measured(("A", "B"), reference_features=real, fake_features=made)


# -- KID -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(12, 9, 4), (2, 7, 3), (30, 25, 40)])
def test_kid_is_that_of_a_double_loop(
    n: int, m: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "CHUNK", 7)
    x, y = two_samples(n, m, d)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(i) * float(j) for i, j in zip(a, b, strict=True)) / d + 1) ** 3

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j)
        / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / (n * m)
    found = KID().compute(measured(x, y))["kid/classifier"]
    assert found.value == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-10)
    assert found.better == "lower" and found.n == m


def test_kid_of_one_distribution_is_about_zero_however_few_images() -> None:
    values = []
    for seed in range(200):
        x, y = np.random.default_rng(seed).normal(size=(2, 8, 3))
        values.append(KID().compute(measured(x, y))["kid/classifier"].value)
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error and min(values) < 0


# -- nearest neighbours ----------------------------------------------------------------------------


def by_the_papers(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, float]:
    """Eqs. 1 to 3 of Kynkaanniemi et al. and Eqs. 3 and 4 of Naeem et al., image by image."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(sum((float(i) - float(j)) ** 2 for i, j in zip(a, b, strict=True))))

    def reach(points: np.ndarray) -> list[float]:
        return [
            sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1]
            for i, p in enumerate(points)
        ]

    real_reach, made_reach = reach(real), reach(made)
    in_real = [[distance(g, r) <= by for r, by in zip(real, real_reach, strict=True)] for g in made]
    in_made = [[distance(r, g) <= by for g, by in zip(made, made_reach, strict=True)] for r in real]
    return {
        "improved_precision": sum(map(any, in_real)) / len(made),
        "improved_recall": sum(map(any, in_made)) / len(real),
        "density": sum(map(sum, in_real)) / (k * len(made)),
        "coverage": sum(map(any, zip(*in_real, strict=True))) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("n", "m", "d"), [(25, 40, 2), (60, 30, 4), (8, 8, 12)])
def test_neighbours_are_those_of_the_papers(
    n: int, m: int, d: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifold, "CHUNK", 11)
    real, made = two_samples(n, m, d)
    found = {}
    for metric in (PrecisionRecall(neighbours=k), DensityCoverage(neighbours=k)):
        found |= metric.compute(measured(real, made))
    expected = by_the_papers(real, made, k)
    assert len(found) == len(expected)
    for name, value in expected.items():
        assert found[f"{name}/classifier"].value == pytest.approx(value)
        assert found[f"{name}/classifier"].better == "higher"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(8, 40), k=st.integers(1, 3))
def test_the_same_images_have_full_precision_recall_and_coverage(seed: int, n: int, k: int) -> None:
    points = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 5)))
    for share in (manifold.precision, manifold.recall, manifold.coverage):
        assert share(points, k)(points) == 1
        assert share(points, k)(points + 100) == 0
    # Each lies in its own ball, and is the nearest of k others on average.
    assert manifold.density(points, k)(points) == pytest.approx((k + 1) / k)


def test_too_few_images_have_no_figure_and_the_note_says_so() -> None:
    real, made = two_samples(40, 11, 3)
    for metric in (PrecisionRecall(neighbours=5), DensityCoverage(neighbours=5)):
        for found in metric.compute(measured(real, made)).values():
            assert found.value is None and "too few" in found.note
    assert KID().compute(measured(real, made[:1]))["kid/classifier"].value is None
    assert Frechet().compute(measured(real, made[:1]))["frechet/classifier"].value is None
    few = KID().compute(measured(real, made))["kid/classifier"]
    assert few.value is not None and few.interval is None


# -- intervals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [KID, Frechet, PrecisionRecall, DensityCoverage])
def test_intervals_cover(metric: type[Metric]) -> None:
    """The figure that as many other images of the generator have on average."""
    real = two_samples(80, 1, 3)[0]
    samples = [two_samples(1, 80, 3, seed)[1] for seed in range(100)]
    found = [metric().compute(measured(real, made)) for made in samples]
    for name in found[0]:
        mean = np.mean([one[name].value for one in found])
        intervals = [one[name].interval for one in found]
        covered = sum(low <= mean <= high for low, high in intervals)
        assert covered >= 95 - 3 * np.sqrt(100 * 0.05 * 0.95), name


def test_a_figure_that_no_block_changes_has_no_interval() -> None:
    found = with_jackknife(lambda some: 0.0, np.zeros(50), "all alike", better="higher")
    assert found.interval is None and "no interval" in found.note


# -- classes ---------------------------------------------------------------------------------------


def by_class(*, conditional: bool) -> tuple[Measured, np.ndarray]:
    """Features that tell 60 images of each kind by their class, and the generated ones' classes."""
    real, made = two_samples(60, 60, 2)
    classes = np.repeat([0, 1, 2], [30, 25, 5])
    one_hot = np.eye(3, dtype=np.uint8)[classes]
    given = measured(real, made)
    given.task = Measured(("A", "B", "C")).task
    networks: dict[str, Any] = {"generator": nn.Module(), "classifier": None}
    networks["generator"].conditional = conditional
    given.graph.networks = networks
    given.__class__ = type("Labelled", (Measured,), {"reference_labels": one_hot[::-1]})
    other = np.roll(one_hot, 7, axis=0)
    labels = torch.from_numpy(other if conditional else one_hot * 0)
    given._generated = Generated(torch.zeros(60), labels, torch.zeros(60, 0))
    given.fake_probs = other * 0.8 + 0.1
    return given, other


@pytest.mark.parametrize("conditional", [True, False])
def test_a_class_is_compared_with_what_was_generated_for_it(conditional: bool) -> None:
    given, labels = by_class(conditional=conditional)
    found = FrechetPerClass().compute(given)
    for i, name in enumerate("AB"):
        x = given.reference_features[given.reference_labels[:, i] == 1]
        y = given.fake_features[labels[:, i] == 1]
        one = found[f"frechet_per_class/classifier/{name}"]
        assert one.value == pytest.approx(frechet_distance(x, y)) and one.n == len(y)
        assert ("made for" if conditional else "classified") in one.note
    few = found["frechet_per_class/classifier/C"]
    assert few.value is None and few.n == 5 and "fewer than 20" in few.note


# -- whose features --------------------------------------------------------------------------------


class Moments(Extractor):
    """A map of greys and their squares, four places"""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        small = nn.functional.adaptive_avg_pool2d(images, 2)
        return {"first": images, "last": torch.cat([small, small.square()], dim=1)}


def test_features_are_of_the_last_map_averaged_and_computed_once() -> None:
    given = evaluation()
    asked = []

    class Counting(Moments):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            asked.append(len(images))
            return super().forward(images)

    given.graph.extractors = {"moments": Counting()}
    both = {which: given.features("moments", which) for which in ("reference", "generated")}
    assert asked == [16, 8, 16, 8]  # 24 images of each kind in batches of 16
    given.features("moments", "generated")
    assert len(asked) == 4
    images = given.reference_images.double() / 127.5 - 1
    quarters = images.view(-1, 2, 16, 2, 16).mean(dim=(2, 4)).flatten(1)
    expected = torch.stack([quarters.mean(dim=1), quarters.square().mean(dim=1)], dim=1)
    np.testing.assert_allclose(both["reference"], expected, atol=1e-6)
    assert given.features("classifier", "generated") is given.fake_features


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_a_metric_of_features_takes_any_extractor(metric: type[Metric]) -> None:
    check_metric(metric, extractor="any")
    options = {"extractor": "any"} | ({"least": 5} if metric is FrechetPerClass else {})
    found = metric(**options).compute(evaluation())
    assert all("the extractor any" in one.note and "/any" in name for name, one in found.items())
    assert any(one.value is not None for one in found.values())
    # One that is not the classifier's needs none.
    alone = metric(extractor="any").compute(evaluation(without="classifier"))
    assert set(alone) == set(found)  # the stand-in is conditional, so classes are known


LOCAL = ("classifier.weights=random", "metrics.fid=false")


def test_a_recipe_names_the_extractor_of_a_metric() -> None:
    implied = load("ucgan_full", [*LOCAL, "metrics.kid.extractor=inception"])
    assert implied.choices["extractors.inception"].options["weights"] == "download"
    given = load(
        "ucgan_full",
        [*LOCAL, "metrics.kid.extractor=mine", "extractors.mine.plugin=vgg16",
         "extractors.mine.weights=random"],
    )  # fmt: skip
    assert given.choices["extractors.mine"].part.name == "vgg16"
    own = load("ucgan_full", [*LOCAL, "metrics.kid={}"])
    assert "extractors.classifier" not in own.choices
    with pytest.raises(UserError, match=r"\[metrics.kid\] extractor: .*did you mean 'inception'"):
        load("ucgan_full", [*LOCAL, "metrics.kid.extractor=incepton"])


def test_what_only_a_metric_reads_is_built_for_it_and_rehearsed(tmp_path: Path) -> None:
    task = Task(32, ("A", "B", "C"), True)
    sets = [*SMALL, *LOCAL, "extractors.vgg19=false", "metrics.kid.extractor=vgg16"]
    recipe = load("ucgan_full", [*sets, "extractors.vgg16.weights=random"])
    graph = assemble(recipe, task)
    assert set(graph.extractors) == {"classifier"}
    data = evaluation()
    given = RunEvaluation(recipe, graph, data.train, data.test, data.device)
    found = given.features("vgg16", "generated")
    assert found.shape == (16, 512) and np.isfinite(found).all()
    own, vgg = given.network("classifier", "vgg16").split()
    assert own == weights_digest(graph.networks["classifier"]) != vgg
    with torch.no_grad():  # other weights are another network
        next(graph.networks["classifier"].parameters()).add_(1e-6)
    assert weights_digest(graph.networks["classifier"]) != own
    (kid,) = KID(extractor="vgg16").compute(given).values()
    assert (
        kid.network
        == vgg
        == RunEvaluation(recipe, graph, data.train, data.test, data.device).network("vgg16")
    )
    (tmp_path / "wrong.pth").write_bytes(b"no weights")
    wrong = load("ucgan_full", [*sets, f"extractors.vgg16.weights={tmp_path / 'wrong.pth'}"])
    with pytest.raises(UserError, match=r"\[extractors.vgg16\]: .*not a file of weights"):
        dry_build(wrong, task)
    no_network = "extractors.mine.plugin=classifier"
    given.recipe = load("ucgan_full", [*sets, "metrics.kid.extractor=mine", no_network])
    with pytest.raises(UserError, match=r"\[extractors.mine\] cannot measure"):
        given.features("mine", "generated")


# -- which images are compared with ----------------------------------------------------------------


def test_held_out_images_are_the_measured_ones_and_give_the_labels() -> None:
    given = evaluation()
    given._config = given._config.model_copy(update={"reference": "held_out"})
    rows = given.reference_rows
    assert len(rows) == 24 and bool((given.reference_images == given.test.images[rows]).all())
    np.testing.assert_array_equal(given.reference_labels, given.test.label_matrix[rows.numpy()])
    by_hand = given.classify(given.test.images[rows], real=True)[0]
    np.testing.assert_array_equal(given.reference_features, by_hand)
    only_first = np.zeros_like(given.test.label_matrix)
    only_first[:, 0] = 1
    given.test.label_matrix[:] = only_first
    assert given.fake_labels[:, 0].tolist() == [1] * 24
    for metric in METRICS:
        options = {"least": 5} if metric is FrechetPerClass else {}
        for name, one in metric(**options).compute(given).items():
            assert "test" in one.note and "training" not in one.note, name
