"""Eqs. 1, 7, 8 and 9 against loops written from the paper; Eqs. 3 and 4 are in test_metrics.py."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from xraygan_minmax.objective import MinMax
from xraygan_scores.distributions import (
    MMD,
    InceptionScoreLoss,
    mean_kl_to_marginal,
    mmd_released,
    mmd_u,
)
from xraygan_scores.style import content_loss, gram_matrix, style_loss

SIZES = [2, 3, 12, 33]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE))
sizes = pytest.mark.parametrize("n", SIZES)
seeds = pytest.mark.parametrize("seed", range(4))


def agree(ours: Tensor, expected: float, floor: float = 1e-9) -> None:
    value = ours.item()
    error = abs(value - expected)
    assert error <= TOLERANCE[ours.dtype] * max(abs(expected), floor), (value, expected)


def normal(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64) * scale


def softmax_rows(logits: Tensor) -> list[list[float]]:
    rows = []
    for row in logits.double().tolist():
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        rows.append([value / math.fsum(powers) for value in powers])
    return rows


def eq_7(logits: Tensor, marginal_scale: float = 1.0) -> float:
    """E_z[KL(p(y|G(z)) || p~(y))], p~ the mean over the batch."""
    rows = softmax_rows(logits)
    n, total = len(rows), 0.0
    for row in rows:
        for k, p in enumerate(row):
            marginal = marginal_scale * math.fsum(other[k] for other in rows) / n
            if p > 0:
                total += p * (math.log(p) - math.log(marginal))
    return total / n


@dtypes
@sizes
@seeds
def test_eq_7(seed: int, n: int, dtype: torch.dtype) -> None:
    logits = normal(seed, n, 5).to(dtype)
    agree(mean_kl_to_marginal(logits), eq_7(logits))
    assert mean_kl_to_marginal(logits).dtype == dtype  # although it is computed in float64
    # The released scripts count every image twice in the marginal.
    agree(mean_kl_to_marginal(logits, 2.0), eq_7(logits, 2.0))


def test_eq_7_is_also_the_difference_of_entropies() -> None:
    logits = normal(0, 12, 4)
    rows = softmax_rows(logits)
    mean = [math.fsum(row[k] for row in rows) / 12 for k in range(4)]
    entropy = -math.fsum(p * math.log(p) for p in mean)
    conditional = -math.fsum(p * math.log(p) for row in rows for p in row) / 12
    agree(mean_kl_to_marginal(logits), entropy - conditional)


@dtypes
def test_eq_7_at_its_bounds(dtype: torch.dtype) -> None:
    certain = torch.eye(4, dtype=dtype) * 1000  # each of its own class; the others' exp is 0
    agree(mean_kl_to_marginal(certain), math.log(4))
    assert abs(float(mean_kl_to_marginal(certain[:1].expand(6, 4)))) < 1e-12
    certain.requires_grad_()
    (gradient,) = torch.autograd.grad(mean_kl_to_marginal(certain), certain)
    assert bool(gradient.isfinite().all())
    unused = certain.detach()[:3]  # nothing belongs to the last class: not 0 * -inf
    agree(mean_kl_to_marginal(unused), math.log(3))


@dtypes
@pytest.mark.parametrize("scale", [1e-2, 1e-3])
def test_nearly_equal_rows_keep_their_digits(scale: float, dtype: torch.dtype) -> None:
    """Both scores are then sums that cancel to the order of scale squared."""
    logits = normal(0, 12, 3, scale=scale).to(dtype)
    agree(mean_kl_to_marginal(logits), eq_7(logits))
    x, y = ((1 / 3 + normal(seed, 12, 3, scale=scale)).to(dtype) for seed in (1, 2))
    agree(mmd_u(x, y), eq_8(x.double().tolist(), y.double().tolist()))


def kernel(a: list[float], b: list[float], bandwidth: float = 1.0) -> float:
    return math.exp(-math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / bandwidth)


def eq_8(x: list[list[float]], y: list[list[float]]) -> float:
    """The mean of each of Eq. 5's three terms over the pairs i != j."""
    n = len(x)
    terms = [
        kernel(x[i], x[j]) - 2 * kernel(x[i], y[j]) + kernel(y[i], y[j])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return math.fsum(terms) / (n * (n - 1))


@dtypes
@sizes
@seeds
def test_eq_8(seed: int, n: int, dtype: torch.dtype) -> None:
    x = normal(seed, n, 5).softmax(1).to(dtype)
    y = normal(seed + 100, n, 5).softmax(1).to(dtype)
    agree(mmd_u(x, y), eq_8(x.double().tolist(), y.double().tolist()))
    assert float(mmd_u(x, x)) == 0.0 and mmd_u(x, y).dtype == dtype


def test_eq_8_of_one_image_has_no_pairs() -> None:
    x, y = (normal(seed, 1, 3).requires_grad_() for seed in (0, 1))
    value = mmd_u(x, y)
    assert value.item() == 0.0
    assert all(not bool(g.any()) for g in torch.autograd.grad(value, (x, y)))


def test_eq_8_is_an_unbiased_estimate_of_eq_5() -> None:
    """Over a small discrete distribution, where Eq. 5's expectations are sums."""
    source = torch.Generator().manual_seed(0)
    points = torch.eye(3, dtype=torch.float64)
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    expected = 0.0
    for a in range(3):
        for b in range(3):
            weight = float(p[a] * p[b] - 2 * p[a] * q[b] + q[a] * q[b])
            expected += weight * kernel(points[a].tolist(), points[b].tolist())
    estimates = torch.stack(
        [
            mmd_u(
                points[torch.multinomial(p, 4, True, generator=source)],
                points[torch.multinomial(q, 4, True, generator=source)],
            )
            for _ in range(6000)
        ]
    )
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(float(estimates.mean()) - expected) < 4 * float(error)
    assert float((estimates < 0).double().mean()) > 0.02  # as an unbiased estimate must


def released_mmd_squared(rows: list[list[float]], others: list[list[float]]) -> float:
    n = len(rows)
    everyone = [(i, j) for i in range(n) for j in range(n)]
    squares = [
        math.fsum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True)) for i, j in everyone
    ]
    h = math.fsum(squares) / n**2
    terms = [
        kernel(rows[i], rows[j], h)
        - 2 * kernel(rows[i], others[j], h)
        + kernel(others[i], others[j], h)
        for i, j in everyone
    ]
    return math.fsum(terms) / n**2


@dtypes
@sizes
def test_the_released_mmd(n: int, dtype: torch.dtype) -> None:
    x, y = (normal(seed, n, 5).softmax(1).to(dtype) for seed in (0, 100))
    squared = released_mmd_squared(x.double().tolist(), y.double().tolist())
    agree(mmd_released(x, y), math.sqrt(squared))
    assert mmd_released(x, y).dtype == dtype
    assert float(mmd_released(x, x)) == 0.0


@pytest.mark.parametrize(("shift", "kept"), [(1e-2, True), (1e-3, True), (3e-4, False)])
def test_the_released_mmd_is_skipped_below_1e_6(shift: float, kept: bool) -> None:
    x = normal(0, 12, 5).softmax(1)
    y = (x + shift * torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0])).requires_grad_()
    squared = released_mmd_squared(x.tolist(), y.tolist())
    assert (squared > 1e-6) is kept and abs(squared / 1e-6 - 1) > 0.1
    value = mmd_released(x, y)
    agree(value, math.sqrt(squared) if kept else 0.0)
    (gradient,) = torch.autograd.grad(value, y)
    assert bool(gradient.isfinite().all()) and bool(gradient.any()) is kept


def eq_9(ours: Tensor, target: Tensor, released: bool = False) -> float:
    n, c, h, w = ours.shape
    a, b = ours.double().reshape(n, c, -1).tolist(), target.double().reshape(n, c, -1).tolist()
    per_image = []
    for one, other in zip(a, b, strict=True):
        squared = 0.0
        for i in range(c):
            for j in range(c):
                scale = h * w if released else c * h * w
                left = math.fsum(p * q for p, q in zip(one[i], one[j], strict=True)) / scale
                right = math.fsum(p * q for p, q in zip(other[i], other[j], strict=True)) / scale
                squared += (left - right) ** 2
        per_image.append(squared)
    mean = math.fsum(per_image) / n
    return 1000 / c**2 * mean / c**2 if released else mean


@dtypes
@sizes
@pytest.mark.parametrize("released", [False, True])
def test_eq_9(n: int, dtype: torch.dtype, released: bool) -> None:
    ours = {"a": normal(0, n, 4, 5, 3), "b": normal(1, n, 6, 2, 2)}
    target = {"a": normal(2, n, 4, 5, 3), "b": normal(3, n, 6, 2, 2)}
    ours, target = ({k: v.to(dtype) for k, v in maps.items()} for maps in (ours, target))
    expected = sum(eq_9(ours[k], target[k], released) for k in ours)
    formula = "released" if released else "paper"
    agree(style_of(ours, target, formula), expected)


def style_of(ours: dict[str, Tensor], target: dict[str, Tensor], formula: Any) -> Tensor:
    return style_loss(ours, {k: gram_matrix(v, formula) for k, v in target.items()}, formula)


def test_the_style_of_bfloat16_maps_is_computed_in_float32() -> None:
    ours, target = (normal(i, 2, 5, 16, 16).bfloat16() for i in range(2))
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grams = gram_matrix(target)
        maps = ours.clone().requires_grad_()
        found = style_of({"a": maps}, {"a": target}, "paper")
    assert torch.get_float32_matmul_precision() == before
    assert grams.dtype == found.dtype == torch.float32
    exact = target.double().flatten(2)
    exact = exact @ exact.transpose(1, 2) / (5 * 16 * 16)
    assert (grams - exact).abs().max() < 1e-6 * exact.abs().max()
    agree(found, eq_9(ours.double(), target.double(), released=False))
    (gradient,) = torch.autograd.grad(found, maps)
    wide = ours.double().requires_grad_()
    (expected,) = torch.autograd.grad(style_of({"a": wide}, {"a": target.double()}, "paper"), wide)
    assert gradient.dtype == torch.bfloat16
    assert (gradient - expected).abs().max() < 2**-7 * expected.abs().max()


@dtypes
def test_content_loss(dtype: torch.dtype) -> None:
    a, b = normal(0, 3, 2, 4, 4).to(dtype), normal(1, 3, 2, 4, 4).to(dtype)
    pairs = zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
    agree(content_loss(a, b), math.fsum((p - q) ** 2 for p, q in pairs) / a.numel())


def test_gradients_of_maps_keep_the_order_that_networks_have_them_in() -> None:
    def maps(seed: int) -> Tensor:
        last = normal(seed, 2, 6, 4, 4).to(memory_format=torch.channels_last)
        return last.bfloat16().requires_grad_()

    ours, others = maps(0), maps(1)
    found = [
        *torch.autograd.grad(content_loss(ours, others), (ours, others)),
        *torch.autograd.grad(style_loss({"a": ours}, {"a": gram_matrix(others.detach())}), ours),
    ]
    assert all(one.stride() == ours.stride() for one in found)


@seeds
def test_eq_1(seed: int) -> None:
    real, fake = normal(seed, 7), normal(seed + 50, 7)
    step = SimpleNamespace(real_scores=real, fake_scores=fake)
    d_real, d_fake = ([1 / (1 + math.exp(-s)) for s in x.tolist()] for x in (real, fake))
    value = math.fsum(map(math.log, d_real)) / 7
    value += math.fsum(math.log(1 - d) for d in d_fake) / 7
    agree(MinMax().discriminator_loss(step), -value)  # type: ignore[arg-type]
    agree(MinMax().generator_loss(step), -math.fsum(map(math.log, d_fake)) / 7)  # type: ignore[arg-type]
    saturating = math.fsum(math.log(1 - d) for d in d_fake) / 7
    agree(MinMax(saturating=True).generator_loss(step), saturating)  # type: ignore[arg-type]


def test_eq_1_where_the_discriminator_is_certain() -> None:
    scores = torch.tensor([-200.0, 200.0], requires_grad=True)
    step = SimpleNamespace(real_scores=scores, fake_scores=scores)
    for loss in (MinMax().generator_loss(step), MinMax().discriminator_loss(step)):  # type: ignore[arg-type]
        assert bool(loss.isfinite())
        (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
        assert bool(gradient.isfinite().all())


def test_the_scores_read_the_step() -> None:
    logits, other = normal(0, 6, 3), normal(1, 6, 3)
    step = SimpleNamespace(
        fake_logits=logits, fake_probs=logits.softmax(1), real_probs=other.softmax(1)
    )
    agree(InceptionScoreLoss()(step), eq_7(logits))
    agree(InceptionScoreLoss(formula="released")(step), eq_7(logits, 2.0))
    real, fake = softmax_rows(other), softmax_rows(logits)
    agree(MMD()(step), eq_8(real, fake))
    agree(MMD(formula="released")(step), math.sqrt(released_mmd_squared(real, fake)))


@pytest.mark.parametrize("n", [2, 5])
def test_gradients(n: int) -> None:
    def leaf(seed: int, *shape: int) -> Tensor:
        return normal(seed, *shape, scale=0.7).requires_grad_()

    x, y = leaf(0, n, 3), leaf(1, n, 3)
    maps, others = leaf(2, n, 3, 2, 2), leaf(3, n, 3, 2, 2)
    assert gradcheck(mean_kl_to_marginal, (x,))
    assert gradcheck(mmd_u, (x, y))
    assert gradcheck(mmd_released, (x, y))
    assert gradcheck(gram_matrix, (maps,))
    assert gradcheck(lambda a, b: style_of({"a": a}, {"a": b}, "paper"), (maps, others))
    assert gradcheck(lambda a, b: style_of({"a": a}, {"a": b}, "released"), (maps, others))
    assert gradcheck(lambda a, b: content_loss(a, b), (maps, others))
