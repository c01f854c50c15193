"""Objectives and penalties against loops in float64, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import gan
from torch import Tensor, nn
from xraygan_dcgan.networks import DCGANDiscriminator
from xraygan_minmax.objective import MinMax
from xraygan_objectives.losses import WGANGP, Hinge, LeastSquares, Relativistic

from xraygan import Discriminator, Objective, Task, UserError, testing
from xraygan.graph.build import assemble
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.testing.stand_ins import Bench
from xraygan.utils.seeding import rng


def softplus(t: float) -> float:
    return math.log1p(math.exp(t))


#: objective -> (L_D, L_G) of the real and the generated logits of a pair
LOSSES: dict[type, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    MinMax: (lambda r, f: softplus(-r) + softplus(f), lambda r, f: softplus(-f)),
    Hinge: (lambda r, f: max(0.0, 1 - r) + max(0.0, 1 + f), lambda r, f: -f),
    LeastSquares: (lambda r, f: (r - 1) ** 2 / 2 + (f + 1) ** 2 / 2, lambda r, f: (f - 1) ** 2 / 2),
    WGANGP: (lambda r, f: f - r, lambda r, f: -f),
    Relativistic: (lambda r, f: softplus(f - r), lambda r, f: softplus(r - f)),
}
every = pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def without_penalties(kind: type) -> Objective:
    return kind(r1=0.0, r2=0.0, **({"penalty": 0.0} if kind is WGANGP else {}))


@every
def test_losses(kind: type) -> None:
    real, fake = (2 * torch.randn(7, generator=rng("cpu", 0, what)).double() for what in "ab")
    step: Any = SimpleNamespace(real_scores=real, fake_scores=fake)
    objective = without_penalties(kind)
    pairs = list(zip(real.tolist(), fake.tolist(), strict=True))
    found = objective.discriminator_loss(step), objective.generator_loss(step)
    for ours, loss in zip(found, LOSSES[kind], strict=True):
        assert ours.item() == pytest.approx(math.fsum(loss(*pair) for pair in pairs) / 7, rel=1e-12)


class Labelled(Discriminator):
    """A small discriminator that asks for labels, and is not linear in images"""

    conditional = True

    def __init__(self, about: Task) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 4, 4), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(3 * (about.image_size // 4) ** 2, 1)
        self.classes = nn.Linear(about.condition_size, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return (self.head(self.layers(images)) * self.classes(labels.to(images.dtype))).flatten()


def loss_by_images(
    kind: type, step: TrainingStep, gammas: dict[str, float], penalty: float
) -> float:
    """L_D with its penalties, image by image: each is differentiated alone, in its own pass."""
    judge = step.networks["discriminator"]
    real = zip(step.real, step.condition_vectors("real"), strict=True)
    fake = zip(step.fake.detach(), step.condition_vectors("fake"), strict=True)
    shares = torch.rand(6, 1, 1, 1, generator=rng("cpu", 0, "testing step"))

    def gradient(image: Tensor, label: Tensor) -> Tensor:
        image = image.detach()[None].requires_grad_()
        return torch.autograd.grad(judge(image, label[None]), image)[0]

    total = 0.0
    for (x, c), (y, d), e in zip(real, fake, shares.flatten().tolist(), strict=True):
        with torch.no_grad():
            scores = [float(judge(image[None], label[None])) for image, label in ((x, c), (y, d))]
        total += LOSSES[kind][0](*scores)
        total += gammas["r1"] / 2 * float(gradient(x, c).square().sum())
        total += gammas["r2"] / 2 * float(gradient(y, d).square().sum())
        if kind is WGANGP:
            between = gradient(e * x + (1 - e) * y, e * c + (1 - e) * d)
            total += penalty * (math.sqrt(float(between.square().sum())) - 1) ** 2
    return total / 6


@every
@pytest.mark.parametrize("labels_first", [False, True])
@pytest.mark.usefixtures("_float64")
def test_penalties_are_those_of_each_image_and_so_are_their_gradients(
    kind: type, labels_first: bool
) -> None:
    bench = Bench()
    bench.networks["discriminator"] = judge = Labelled(bench.task)
    gammas = {"r1": 0.7, "r2": 1.9}
    objective = kind(**gammas)
    step = bench.step()
    if labels_first:  # another term may have asked for the logits
        _ = step.fake_scores, step.real_scores
    loss = objective.discriminator_loss(step)
    assert loss.item() == pytest.approx(loss_by_images(kind, bench.step(), gammas, 10.0), rel=1e-9)
    assert {"r1", "r2"} <= set(step.records)
    assert ("gradient_penalty" in step.records) is (kind is WGANGP)

    parameters = list(judge.parameters())
    found = torch.autograd.grad(loss, parameters)
    way = [torch.randn(p.shape, generator=rng("cpu", i, "way")) for i, p in enumerate(parameters)]
    ends = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            for parameter, v in zip(parameters, way, strict=True):
                parameter += h * v
        ends.append(loss_by_images(kind, bench.step(), gammas, 10.0))
        with torch.no_grad():
            for parameter, v in zip(parameters, way, strict=True):
                parameter -= h * v
    slope = sum(float((g * v).sum()) for g, v in zip(found, way, strict=True))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


# -- in a graph ------------------------------------------------------------------------------------


def graph_of(objective: str, normalization: str = "none", **options: Any) -> TrainingGraph:
    recipe = gan(
        objective={"plugin": objective, **options}, discriminator={"normalization": normalization}
    )
    return assemble(recipe, Task(32, ("Edema", "Mass"), exclusive=True))


def step_of(graph: TrainingGraph, **context: Any) -> TrainingStep:
    real = torch.rand(6, 1, 32, 32, generator=rng("cpu", 0, "real")) * 2 - 1
    return graph.step(real, torch.arange(6) % 2, rng("cpu", 0, "latent"), **context)


@pytest.mark.parametrize(
    ("objective", "passes"),
    [("minmax", 2), ("hinge", 2), ("relativistic", 2), ("wgan_gp", 3)],
)
def test_penalties_need_no_pass_of_their_own(objective: str, passes: int) -> None:
    graph = graph_of(objective, r1=1.0, r2=1.0)
    seen = []
    graph.networks["discriminator"].register_forward_hook(lambda *_: seen.append(1))
    step = step_of(graph)
    _, together = graph.gradients(step)
    assert len(seen) == passes
    # The generated images ask for their gradient also where the generator waits.
    _, alone = graph.gradients(step_of(graph, learning=frozenset({"discriminator"})))
    for ours, expected in zip(alone["discriminator"], together["discriminator"], strict=True):
        assert ours is not None and expected is not None
        torch.testing.assert_close(ours, expected)
    assert all(g is not None for g in together["generator"])
    # And the generator learns what it learns without penalties on the discriminator.
    plain = graph_of(objective)
    _, without = plain.gradients(step_of(plain))
    for ours, expected in zip(together["generator"], without["generator"], strict=True):
        torch.testing.assert_close(ours, expected)


def test_what_nobody_asks_for_costs_nothing() -> None:
    """No more is kept for the backward pass than for plain images, and no more is computed."""
    graph = graph_of("minmax", "batch")
    judge = graph.networks["discriminator"]

    def kept(compute: Callable[[], Any]) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
            return tensor

        held: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            held.append(compute())
        return sum(storages.values())

    step = step_of(graph)
    weights = sum(p.numel() * p.element_size() for p in judge.layers[0].parameters())
    # A convolution whose input asks for a gradient keeps a reference to its weights beside it.
    assert kept(lambda: step.real_scores) <= kept(lambda: judge(step.real.clone())) + weights

    asked = []
    step = step_of(graph)
    step.discriminator_pass("real")[0].register_hook(lambda _: asked.append("real"))
    graph.gradients(step)
    assert not asked


def test_a_compiled_discriminator_is_refused() -> None:
    graph = graph_of("hinge", r1=1.0)
    graph.networks["discriminator"].compile()
    with pytest.raises(UserError, match=r"\[run\] compile"):
        step_of(graph).discriminator_pass("real")


# -- a discriminator without batch norm ------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["instance", "spectral", "none"])
def test_a_logit_is_that_of_its_image_alone(normalization: Any) -> None:
    assert "gradient" in testing.check_discriminator(
        DCGANDiscriminator, sizes=(32,), width=4, normalization=normalization
    )
    torch.manual_seed(0)
    judge = DCGANDiscriminator(Task(32, ("a",), True), width=4, normalization=normalization)
    for _ in range(50):  # the largest singular values are found little by little
        images = torch.randn(3, 1, 32, 32)
        together = judge(images)
    torch.testing.assert_close(judge(images[:1]), together[:1], rtol=1e-3, atol=1e-5)
    if normalization == "spectral":
        for layer in judge.layers:
            if isinstance(layer, nn.Conv2d):
                largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
                assert largest.item() == pytest.approx(1, abs=0.02)


def test_the_default_is_the_papers_network() -> None:
    names = DCGANDiscriminator(Task(32, ("a",), True), width=4).state_dict()
    kinds = [name.split(".")[1:] for name in names if "running" not in name]
    assert [place for place, what in kinds if what == "weight"] == ["0", "2", "3", "5", "6", "8"]
