"""The GANs that Tabs. 7 and 8 compare with: EC-GAN and the balanced DCGAN."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from xraygan_dcgan.per_class import PerClassDiscriminator, PerClassGenerator, by_class
from xraygan_pseudolabel.labelers import FillUp, missing

from xraygan import Task, UserError
from xraygan.graph.build import assemble
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.recipe.loading import load
from xraygan.utils.seeding import rng

CLASSES = ("NORMAL", "PNEUMONIA", "OTHER")
GREY = tuple(word for word in SMALL if not word.startswith("scores."))


def graph_of(recipe: str, *overrides: str, counts: tuple[int, ...] | None = None) -> TrainingGraph:
    chosen = load(recipe, [*GREY, "data.classes=all", "classifier.weights=random", *overrides])
    return assemble(chosen, Task(32, CLASSES, exclusive=True, counts=counts))


def step_of(graph: TrainingGraph, n: int = 12) -> TrainingStep:
    real = torch.rand(n, 1, 32, 32, generator=rng("cpu", 0, "real")) * 2 - 1
    return graph.step(real, torch.arange(n) % 3, rng("cpu", 0, "latent"))


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(math.fsum(math.exp(x) for x in logits)) - logits[label]


# -- EC-GAN ----------------------------------------------------------------------------------------


def test_ec_gans_classifier_minimizes_its_two_losses() -> None:
    """L_C = CE(real) + 0.1 CE(generated, own prediction) over those surer than 0.7."""
    graph = graph_of("ecgan")
    with torch.no_grad():
        graph.networks["classifier"].network.fc.weight.mul_(1.2)  # sure of some images
    step = step_of(graph)
    values, gradients = graph.gradients(step)

    real, fake = (x.detach().double().tolist() for x in (step.real_logits, step.fake_logits))
    on_real = [cross_entropy(row, i % 3) for i, row in enumerate(real)]
    kept = []
    for row in fake:
        probs = [math.exp(x) / math.fsum(math.exp(y) for y in row) for x in row]
        if max(probs) > 0.7:
            kept.append(cross_entropy(row, probs.index(max(probs))))
    assert 0 < len(kept) < len(fake)
    assert float(values["classification"]) == pytest.approx(math.fsum(on_real) / 12, rel=1e-5)
    assert float(values["pseudo_label"]) == pytest.approx(math.fsum(kept) / len(kept), rel=1e-5)
    weights = {term.name: term.weight for term in graph.terms}
    assert (weights["classification"], weights["pseudo_label"]) == (1.0, 0.1)

    again = step_of(graph)
    total = again.real_logits.sum() * 0
    for term in graph.terms:
        if "classifier" in term.trains:
            total = total + term.weight * term.compute(again)
    expected = torch.autograd.grad(total, list(graph.networks["classifier"].parameters()))
    for ours, theirs in zip(gradients["classifier"], expected, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_nothing_of_ec_gans_classifier_reaches_its_generator() -> None:
    graph = graph_of("ecgan", "labeler.threshold=0.0")
    assert {t.name for t in graph.terms if "generator" in t.trains} == {"generator"}
    _, with_classifier = graph.gradients(step_of(graph))
    graph.terms = [term for term in graph.terms if "classifier" not in term.trains]
    _, without = graph.gradients(step_of(graph))
    for ours, alone in zip(with_classifier["generator"], without["generator"], strict=True):
        assert ours is not None and alone is not None and torch.equal(ours, alone)


# -- the balanced DCGAN ----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_rows_keep_their_order_and_their_class(labels: list[int]) -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    networks = nn.ModuleList(Times(10.0**k) for k in range(3))
    x = torch.arange(1.0, len(labels) + 1)
    one_hot = nn.functional.one_hot(torch.tensor(labels), 3)
    expected = [float(i + 1) * 10.0**label for i, label in enumerate(labels)]
    assert by_class(networks, x, one_hot).tolist() == expected


@pytest.mark.parametrize("cls", [PerClassGenerator, PerClassDiscriminator])
def test_a_class_is_made_and_judged_as_if_it_were_alone(cls: type) -> None:
    """Batch norms see one class, and a class's gradients stay in its network."""
    torch.manual_seed(0)
    task = Task(32, CLASSES, exclusive=True)
    together = cls(task, width=4)
    labels = torch.tensor([2, 0, 2, 0, 0, 2, 2])  # none of class 1
    size = (7, 100) if cls is PerClassGenerator else (7, 1, 32, 32)
    inputs = torch.randn(size)
    out = together(inputs, task.one_hot(labels))
    for k in (0, 2):
        alone = together.networks[k](inputs[labels == k])
        torch.testing.assert_close(out[labels == k], alone)
    out[labels == 2].square().sum().backward()
    reached = [any(p.grad is not None and bool(p.grad.any()) for p in n.parameters())
               for n in together.networks]  # fmt: skip
    assert reached == [False, False, True]


def test_its_networks_need_exclusive_classes() -> None:
    for build in (PerClassGenerator, PerClassDiscriminator, FillUp):
        with pytest.raises(UserError, match='label_policy is "multi"'):
            build(Task(32, CLASSES, exclusive=False))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(any))
def test_classes_are_filled_up_to_the_largest(counts: list[int]) -> None:
    lacking = missing(counts)
    for count, more in zip(counts, lacking, strict=True):
        assert more == 0 if count == 0 else count + more == max(counts)


def test_both_losses_together_are_the_mean_over_the_filled_up_set() -> None:
    """An independent loop over the balanced set, where each class is generated equally often."""
    counts = (7, 2, 4)
    losses = {"real": [0.5, 1.25, 2.0], "generated": [0.25, 3.0, 1.5]}  # of an image of each class
    balanced = [losses["real"][k] for k in range(3) for _ in range(counts[k])]
    balanced += [losses["generated"][k] for k in range(3) for _ in range(max(counts) - counts[k])]
    assert len(balanced) == 3 * max(counts)

    step = SimpleNamespace(fake_labels=torch.arange(12) % 3, records={})
    step.record = step.records.__setitem__
    labels, weights = FillUp(Task(32, CLASSES, exclusive=True, counts=counts)).label(step)  # type: ignore[arg-type]
    each = torch.tensor(losses["generated"])[labels]
    on_generated = float((each * weights).sum() / weights.sum())
    on_real = sum(losses["real"][k] * counts[k] for k in range(3)) / sum(counts)
    whole = 3 * max(counts)
    real_share, generated_share = sum(counts) / whole, (whole - sum(counts)) / whole
    together = real_share * on_real + generated_share * on_generated
    assert together == pytest.approx(math.fsum(balanced) / len(balanced), rel=1e-6)
    assert float(step.records["fill_up_share"]) == pytest.approx(generated_share)


def test_the_gans_come_first_and_the_classifier_after_them() -> None:
    schedule = load("balanced_dcgan", ["classifier.weights=random"]).tables.schedule
    assert schedule.phase(0.5).waits == ["classifier"]
    assert schedule.phase(0.8).waits == ["generator", "discriminator"]
    graph = graph_of("balanced_dcgan", counts=(7, 2, 4))
    step = step_of(graph)
    step.learning = frozenset({"classifier"})
    values, gradients = graph.gradients(step)
    assert set(gradients) == {"classifier"}
    assert set(values) == {"classification", "pseudo_label"}
