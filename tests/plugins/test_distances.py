"""Distances between batches, against loops from their equations and against other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import energy_distance as energy_on_a_line
from sklearn.metrics.pairwise import polynomial_kernel
from test_equations import agree, normal
from torch import Tensor
from torch.autograd import gradcheck
from xraygan_distances.energy import EnergyDistance, energy_distance
from xraygan_distances.kernels import MixtureMMD, PolynomialMMD
from xraygan_distances.pixels import Pixels
from xraygan_distances.samples import DistanceScore, squared_distances
from xraygan_distances.transport import (
    Sinkhorn,
    SlicedWasserstein,
    entropic_cost,
    sinkhorn_divergence,
    sliced_wasserstein,
)

from xraygan import Task, UserError
from xraygan.graph.build import assemble
from xraygan.recipe.loading import load
from xraygan.testing import check_extractor, check_score
from xraygan.testing.stand_ins import Bench
from xraygan.utils.seeding import rng

SCORES = (EnergyDistance, MixtureMMD, PolynomialMMD, Sinkhorn, SlicedWasserstein)
every_score = pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)
sizes = pytest.mark.parametrize("n", [2, 3, 12])
Rows = list[list[float]]


def distance(score: DistanceScore, x: Tensor, y: Tensor) -> Tensor:
    """What a score says of two batches with these class distributions."""
    step: Any = SimpleNamespace(real_probs=x, fake_probs=y, rng=rng("cpu", 0, "directions"))
    return score(step)


def samples(n: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(normal(seed, n, 5, scale=scale).softmax(1).to(dtype) for seed in (0, 100))


def apart(a: list[float], b: list[float]) -> float:
    return math.dist(a, b)


def mean_over(x: Rows, y: Rows, value: Callable[[list[float], list[float]], float]) -> float:
    return math.fsum(value(a, b) for a in x for b in y) / (len(x) * len(y))


def energy(x: Rows, y: Rows, exponent: float = 1.0) -> float:
    """2 E|x - y|^a - E|x - x'|^a - E|y - y'|^a."""
    crossed, ours, theirs = (
        mean_over(*pair, lambda a, b: apart(a, b) ** exponent) for pair in ((x, y), (x, x), (y, y))
    )
    return 2 * crossed - ours - theirs


def mmd(x: Rows, y: Rows, kernel: Callable[[list[float], list[float]], float]) -> float:
    """The mean of k(x, x') and of k(y, y') over pairs of two, less twice that of k(x, y)."""
    n = len(x)
    within = math.fsum(
        kernel(rows[i], rows[j]) for rows in (x, y) for i in range(n) for j in range(n) if i != j
    )
    return within / (n * (n - 1)) - 2 * mean_over(x, y, kernel)


def polynomial(x: Rows, y: Rows) -> float:
    return mmd(x, y, lambda a, b: polynomial_kernel([a], [b], degree=3, coef0=1).item())


def mixture(x: Rows, y: Rows, relative_to: str = "median") -> float:
    distances = sorted(apart(a, b) for a in x for b in y)
    unit = {"median": distances[(len(distances) - 1) // 2], "mean": np.mean(distances)}
    widths = [s * float(unit.get(relative_to, 1.0)) for s in (0.25, 0.5, 1.0, 2.0, 4.0)]
    return mmd(
        x, y, lambda a, b: np.mean([math.exp(-0.5 * (apart(a, b) / s) ** 2) for s in widths])
    )


def transport(x: np.ndarray, y: np.ndarray, epsilon: float) -> float:
    """min_P <P, C> + epsilon KL(P | uniform), by POT."""
    n, cost = len(x), ot.dist(x, y)
    even = np.full(n, 1 / n)
    plan = ot.bregman.sinkhorn_log(
        even, even, cost, epsilon, numItermax=5000, stopThr=1e-12, warn=False
    )
    surprise = np.where(plan > 0, plan * np.log(np.maximum(plan * n * n, 1e-300)), 0.0)
    return float((plan * cost).sum() + epsilon * surprise.sum())


def debiased(x: Rows, y: Rows, epsilon: float) -> float:
    pairs = ((x, y), (x, x), (y, y))
    crossed, ours, theirs = (transport(*map(np.asarray, pair), epsilon) for pair in pairs)
    return crossed - (ours + theirs) / 2


# -- each against its definition -------------------------------------------------------------------


@sizes
@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_the_energy_distance(n: int, exponent: float) -> None:
    x, y = samples(n)
    found = distance(EnergyDistance(exponent=exponent), x, y)
    agree(found, energy(x.tolist(), y.tolist(), exponent))


def test_the_energy_distance_on_a_line_is_scipys() -> None:
    x, y = normal(0, 40, 1), normal(1, 40, 1) + 0.5
    agree(energy_distance(x, y), energy_on_a_line(x[:, 0], y[:, 0]) ** 2)


@sizes
def test_the_polynomial_mmd(n: int) -> None:
    x, y = samples(n)
    agree(distance(PolynomialMMD(), x, y), polynomial(x.tolist(), y.tolist()))


@sizes
@pytest.mark.parametrize("relative_to", ["median", "mean", "nothing"])
def test_the_mixture_mmd(n: int, relative_to: Any) -> None:
    x, y = samples(n)
    found = distance(MixtureMMD(relative_to=relative_to), x, y)
    agree(found, mixture(x.tolist(), y.tolist(), relative_to))


@sizes
@pytest.mark.parametrize("power", [1, 2])
def test_the_sliced_distance_is_pots_along_the_same_directions(n: int, power: int) -> None:
    x, y = samples(n)
    directions = torch.nn.functional.normalize(normal(3, 20, 5))
    expected = ot.sliced_wasserstein_distance(
        x.numpy(), y.numpy(), projections=directions.T.numpy(), p=power
    )
    agree(sliced_wasserstein(x, y, directions, power), expected**power)


def test_the_directions_are_drawn_uniformly() -> None:
    """Of a batch and the same moved by s, E_v[(v . s)^2] = |s|^2 / D, in whatever direction."""
    x = normal(0, 3, 4)
    for move in ([3, 0, 0, 0], [0, 3, 0, 0], [1.5, 1.5, 1.5, 1.5], [1.5, -1.5, 1.5, -1.5]):
        found = distance(SlicedWasserstein(projections=20000), x, x + torch.tensor(move))
        assert found.item() == pytest.approx(9 / 4, rel=0.03)


@sizes
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_the_sinkhorn_divergence_is_pots(n: int, epsilon: float) -> None:
    x, y = samples(n, scale=1.0)
    found = sinkhorn_divergence(x, y, torch.tensor(epsilon).double(), 1000)
    assert found.item() == pytest.approx(debiased(x.tolist(), y.tolist(), epsilon), rel=1e-6)


def test_the_cost_of_a_plan_is_pots() -> None:
    x, y = samples(3, scale=1.0)
    cost, epsilon = squared_distances(x, y)[None], torch.tensor(0.5).double()
    found = entropic_cost(cost, epsilon, 500)
    assert found.tolist() == pytest.approx([transport(x.numpy(), y.numpy(), 0.5)], rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0, 20.0])
def test_the_sinkhorn_iterations_are_enough(scale: float) -> None:
    """Of rows that are nearly equal, and of rows that are nearly one-hot."""
    x, y = samples(12, scale)
    more = distance(Sinkhorn(iterations=2000), x, y)
    assert distance(Sinkhorn(), x, y).item() == pytest.approx(more.item(), rel=5e-3)


def test_the_sinkhorn_divergence_at_its_limits() -> None:
    x, y = samples(6)
    even = np.full(6, 1 / 6)
    exact = ot.emd2(even, even, ot.dist(x.numpy(), y.numpy()))
    found = sinkhorn_divergence(x, y, torch.tensor(1e-4).double(), 5000)
    assert found.item() == pytest.approx(exact, rel=1e-3)
    means = (x.mean(0) - y.mean(0)).square().sum()
    found = sinkhorn_divergence(x, y, torch.tensor(1e4).double(), 10)
    assert found.item() == pytest.approx(means.item(), rel=1e-3)


# -- their options ---------------------------------------------------------------------------------


def test_options_are_those_of_the_definitions() -> None:
    x, y = samples(5)
    lists = x.tolist(), y.tolist()
    for degree in (1, 2):
        expected = mmd(
            *lists, lambda a, b, m=degree: polynomial_kernel([a], [b], degree=m, coef0=1).item()
        )
        agree(distance(PolynomialMMD(degree=degree), x, y), expected)
    widths = (0.5, 3.0)
    found = distance(MixtureMMD(bandwidths=widths, relative_to="nothing"), x, y)
    agree(found, mmd(*lists, lambda a, b: np.mean([
        math.exp(-0.5 * (apart(a, b) / s) ** 2) for s in widths
    ])))  # fmt: skip
    unit = squared_distances(x, y).mean()
    for options, epsilon, iterations in (
        ({}, 0.1, 50),
        ({"epsilon": 2.0, "iterations": 3}, 2.0, 3),
    ):
        assert Sinkhorn(**options).iterations == iterations  # a number that is enough hides another
        expected = sinkhorn_divergence(x, y, epsilon * unit, iterations)
        torch.testing.assert_close(distance(Sinkhorn(**options), x, y), expected)
    for options, count, power in (({}, 128, 2), ({"projections": 7, "power": 1}, 7, 1)):
        drawn = torch.randn((count, 5), generator=rng("cpu", 0, "directions"), dtype=x.dtype)
        directions = torch.nn.functional.normalize(drawn)
        expected = sliced_wasserstein(x, y, directions, power)
        torch.testing.assert_close(distance(SlicedWasserstein(**options), x, y), expected)


def test_features_are_those_of_the_last_of_several_layers() -> None:
    maps = {name: normal(seed, 4, 2, 3, 3) for seed, name in enumerate("abc")}
    step: Any = SimpleNamespace(
        features=lambda extractor, images: {k: v + (images == "fake") for k, v in maps.items()},
        cached=lambda key, make: make(),
        gather=lambda rows: rows,
        rng=None,
    )
    rows = maps["c"].mean(dim=(2, 3))
    torch.testing.assert_close(
        PolynomialMMD(extractor="any")(step), distance(PolynomialMMD(), rows, rows + 1)
    )


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e6])
def test_rows_that_coincide_have_no_gradient_whatever_their_scale(scale: float) -> None:
    def slope(by: float) -> Tensor:
        rows = normal(0, 6, 4)
        x = (by * torch.cat([rows, rows[:2]])).requires_grad_()
        (found,) = torch.autograd.grad(energy_distance(x, by * rows.flip(0)), x)
        return found

    torch.testing.assert_close(slope(scale), slope(1.0), rtol=1e-5, atol=1e-7)


# -- what holds of all -----------------------------------------------------------------------------

#: rows of few values, of which many are the same
rows = st.integers(1, 6).flatmap(
    lambda n: st.lists(
        st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=n, max_size=n),
        min_size=2,
        max_size=2,
    )
)


@settings(max_examples=40, deadline=None)
@given(rows, st.sampled_from(SCORES), st.sampled_from([torch.float32, torch.float64]))
def test_rows_that_coincide(pair: list[Any], score: Any, dtype: torch.dtype) -> None:
    x, y = torch.tensor(pair, dtype=dtype).requires_grad_()
    value = distance(score(), x, y)
    assert value.dtype == dtype and bool(value.isfinite())
    for gradient in torch.autograd.grad(value, (x, y)):
        assert bool(gradient.isfinite().all())
    if score not in (MixtureMMD, PolynomialMMD):  # which are unbiased, so negative at times
        assert value.item() >= -1e-6
        same = distance(score(), x, x.flip(0))
        assert abs(same.item()) < 1e-6


@every_score
@pytest.mark.parametrize("n", [1, 3])
def test_batches_of_one_row_alone(score: Any, n: int) -> None:
    """What a unit of length is relative to is then 0."""
    x, y = torch.full((2, n, 4), 0.25).requires_grad_()
    value = distance(score(), x, y)
    assert value.item() == 0
    assert not any(bool(gradient.any()) for gradient in torch.autograd.grad(value, (x, y)))


@every_score
@pytest.mark.parametrize("scale", [1e-2, 1e-3])
def test_nearly_equal_rows_keep_their_digits(score: Any, scale: float) -> None:
    x, y = (1 / 3 + normal(seed, 8, 3, scale=scale).float() for seed in (1, 2))
    exact = distance(score(), x.double(), y.double())
    agree(distance(score(), x, y), exact.item(), floor=0.0)
    lists = x.double().tolist(), y.double().tolist()
    if expected := {EnergyDistance: energy, MixtureMMD: mixture, PolynomialMMD: polynomial}.get(
        score
    ):
        assert exact.item() == pytest.approx(expected(*lists), rel=1e-5)


@every_score
@pytest.mark.parametrize("n", [1, 256])
def test_the_smallest_and_a_large_batch(score: Any, n: int) -> None:
    x, y = (rows.requires_grad_() for rows in samples(n, dtype=torch.float32))
    value = distance(score(), x, y)
    assert bool(value.isfinite())
    for gradient in torch.autograd.grad(value, (x, y)):
        assert bool(gradient.isfinite().all())
        # Of one row there are no pairs to estimate a kernel's mean from.
        assert bool(gradient.any()) == (n > 1 or score not in (MixtureMMD, PolynomialMMD))


@pytest.mark.parametrize("n", [2, 5])
def test_gradients(n: int) -> None:
    x, y = (normal(seed, n, 3, scale=0.7).requires_grad_() for seed in (0, 1))
    for score in (
        EnergyDistance(),
        EnergyDistance(exponent=1.5),
        MixtureMMD(relative_to="nothing"),
        PolynomialMMD(),
        SlicedWasserstein(),
        SlicedWasserstein(power=1),
    ):
        assert gradcheck(lambda a, b, score=score: distance(score, a, b), (x, y))
    epsilon = torch.tensor(0.5).double()
    assert gradcheck(lambda a, b: sinkhorn_divergence(a, b, epsilon, 300), (x, y))


def test_squared_distances_far_from_the_origin() -> None:
    origin = 1e6 * torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)
    x, y = (origin + normal(seed, 4, 3) for seed in (0, 1))
    expected = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(x, y), expected)


# -- of features -----------------------------------------------------------------------------------


@every_score
def test_features_are_compared_in_place_of_class_distributions(score: Any) -> None:
    step = Bench().step()
    step.rng = rng("cpu", 0, "directions")
    pooled = {
        images: {name: maps.mean(dim=(2, 3)) for name, maps in step.features("any", images).items()}
        for images in ("real", "fake")
    }
    for layer in ("", "first"):
        x, y = (pooled[images][layer or "second"] for images in ("real", "fake"))
        step.rng = rng("cpu", 0, "directions")
        found = score(extractor="any", layer=layer)(step)
        torch.testing.assert_close(found, distance(score(), x, y))
        assert found.item() != 0
    said = "layer: the extractor 'any' has no 'third'; it has first, second$"
    with pytest.raises(UserError, match=said):
        score(extractor="any", layer="third")(step)
    with pytest.raises(
        UserError, match=r"extractor is empty: set extractor to .*, or remove layer$"
    ):
        score(layer="first")
    assert "batch of one" in check_score(score, extractor="any")


def test_an_extractor_is_built_where_one_is_named() -> None:
    plain = [*SMALL, "scores.gram=false", "scores.style_transfer=false"]
    for extractor, built in (("", []), ("classifier", ["classifier"])):
        recipe = load("ucgan_full", [*plain, f"scores.sinkhorn.extractor='{extractor}'"])
        assert [c for c in recipe.choices if c.startswith("extractors.")] == [
            "extractors.vgg19",  # the recipe's own table, which nothing reads
            *(f"extractors.{name}" for name in built),
        ]
        graph = assemble(recipe, Task(32, ("Pneumonia", "Edema", "Hernia"), exclusive=True))
        assert list(graph.extractors) == built
        assert "sinkhorn" in {term.name for term in graph.terms}


# -- of pixels -------------------------------------------------------------------------------------


def test_the_extractor_of_pixels() -> None:
    check_extractor(Pixels, sizes=(32, 64))
    check_extractor(Pixels, sizes=(32,), square=5)
    images = normal(0, 2, 1, 8, 8)
    rows = Pixels(square=2)(images)["pixels"]
    assert rows.shape == (2, 16)
    for n in range(2):
        for i in range(16):
            y, x = 2 * (i // 4), 2 * (i % 4)
            square = [float(images[n, 0, y + a, x + b]) for a in (0, 1) for b in (0, 1)]
            assert float(rows[n, i]) == pytest.approx(sum(square) / 4 / 4, rel=1e-12)
    whole = Pixels(square=1)(images)["pixels"]
    difference = (images[0] - images[1]).square().mean().sqrt()
    torch.testing.assert_close(torch.linalg.norm(whole[0] - whole[1]), difference)
    with pytest.raises(UserError, match="square: 9 pixels are more than the 8 pixels of an image"):
        Pixels(square=9)(images)


def test_a_distance_of_pixels_is_that_of_the_images() -> None:
    step = Bench().step()
    step.extractors["pixels"] = Pixels(square=4)
    rows = [
        F.avg_pool2d(images, 4).flatten(1).double() / (images.shape[-1] // 4)
        for images in (step.real, step.fake)
    ]
    found = EnergyDistance(extractor="pixels")(step)
    torch.testing.assert_close(found, energy_distance(*rows).float(), rtol=1e-5, atol=1e-7)


@every_score
@pytest.mark.parametrize("exclusive", [True, False])
def test_images_are_compared_together_with_their_labels(score: Any, exclusive: bool) -> None:
    step = Bench(exclusive=exclusive).step()
    step.networks["generator"].conditional = True
    rows = []
    for probs, labels in (
        (step.real_probs, step.labels),
        (step.fake_probs, step.fake_labels),
    ):
        vectors = torch.eye(len(step.task.classes))[labels] if exclusive else labels
        rows.append(torch.cat([probs, 3 * vectors], dim=1))
    step.rng = rng("cpu", 0, "directions")
    found = score(labels=3.0)(step)
    torch.testing.assert_close(found, distance(score(), *rows))
    assert not torch.allclose(found, distance(score(), step.real_probs, step.fake_probs))
    step.networks["generator"].conditional = False
    with pytest.raises(UserError, match=r"labels is 3, but the generator is not conditional"):
        score(labels=3.0)(step)
