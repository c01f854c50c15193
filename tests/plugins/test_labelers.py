"""Pseudo-labels: which images are kept, by what rule, of generated and of unlabelled images."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equations import normal
from torch import Tensor
from xraygan_pseudolabel.labelers import ClassAdaptive, Confidence, Entropy, Margin, Teacher
from xraygan_pseudolabel.unlabelled import UnlabelledPseudoLabel

from xraygan import Labeler, Task, UserError, run
from xraygan.graph.build import assemble
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.recipe.loading import load
from xraygan.testing.stand_ins import Bench, stand_in_task
from xraygan.utils.seeding import rng

BATCH = [
    [0.8, 0.1, 0.1],
    [0.5, 0.45, 0.05],
    [0.2, 0.2, 0.6],
    [0.0, 1.0, 0.0],
    [1 / 3, 1 / 3, 1 / 3],
]


def label(labeler: Labeler, probs: Any) -> tuple[list[Any], list[float]]:
    step: Any = SimpleNamespace(fake_probs=torch.as_tensor(probs))
    labels, weights = labeler.label(step)
    return labels.tolist(), weights.tolist()


def entropy(row: list[float]) -> float:
    return -math.fsum(p * math.log(p) for p in row if p > 0)


@pytest.mark.parametrize("bound", [0.0, 0.3, 0.55, 0.79])
def test_rules_for_exclusive_classes(bound: float) -> None:
    about = stand_in_task()
    expected = [row.index(max(row)) for row in BATCH]
    for labeler, kept in (
        (Confidence(about, threshold=bound), [max(row) > bound for row in BATCH]),
        (Margin(about, margin=bound), [sorted(r)[-1] - sorted(r)[-2] > bound for r in BATCH]),
        (
            Entropy(about, threshold=bound or 1e-3),
            [entropy(row) < (bound or 1e-3) * math.log(3) for row in BATCH],
        ),
    ):
        labels, weights = label(labeler, BATCH)
        assert labels[:4] == expected[:4]  # the last is a tie
        assert weights == kept, labeler


@pytest.mark.parametrize("bound", [0.5, 0.6, 0.85])
def test_rules_for_several_findings(bound: float) -> None:
    """Each finding is a decision between present and absent; an image is kept if all are made."""
    about = stand_in_task(exclusive=False)
    rows = [[0.9, 0.02, 0.95], [0.7, 0.1, 0.2], [0.55, 0.99, 0.01], [0.0, 1.0, 1.0]]
    rules = {
        Confidence(about, threshold=bound): lambda p: p > bound or p < 1 - bound,
        Margin(about, margin=bound): lambda p: abs(2 * p - 1) > bound,
        Entropy(about, threshold=bound): lambda p: entropy([p, 1 - p]) < bound * math.log(2),
    }
    for labeler, decided in rules.items():
        labels, weights = label(labeler, rows)
        assert labels == [[float(p > 0.5) for p in row] for row in rows]
        assert weights == [float(all(map(decided, row))) for row in rows], labeler


@pytest.mark.parametrize("labeler", [Confidence, Margin, Entropy, ClassAdaptive])
def test_one_class_alone_is_certain(labeler: Any) -> None:
    assert label(labeler(Task(32, ("Hernia",), exclusive=True)), [[1.0], [1.0]]) == ([0, 0], [1, 1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(40, 99)), min_size=1, max_size=40),
    st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0]),
    st.sampled_from([0.0, 0.5, 0.8]),
)
def test_each_class_keeps_its_share(
    batch: list[tuple[int, int]], share: float, floor: float
) -> None:
    probs = torch.full((len(batch), 3), 0.0)
    for row, (k, hundredths) in zip(probs, batch, strict=True):
        row[:] = (1 - hundredths / 100) / 2
        row[k] = hundredths / 100
    labels, weights = label(ClassAdaptive(stand_in_task(), share=share, floor=floor), probs)
    assert labels == [k for k, _ in batch]
    for k in range(3):
        mine = sorted((h for other, h in batch if other == k), reverse=True)
        least = mine[math.ceil(share * len(mine) - 1e-9) - 1] if mine else 0
        kept = [h for (other, h), w in zip(batch, weights, strict=True) if other == k and w]
        assert sorted(kept, reverse=True) == [h for h in mine if h >= least and h / 100 > floor]


def test_class_adaptive_refuses_several_findings() -> None:
    with pytest.raises(UserError, match="class_adaptive needs exclusive classes"):
        ClassAdaptive(stand_in_task(exclusive=False))


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_teacher_is_the_average_and_nothing_is_learned_through_it(exclusive: bool) -> None:
    bench = Bench(exclusive=exclusive, averages=("classifier",))
    own = bench.networks["classifier"]
    bench.networks["classifier"] = bench.averages["classifier"]
    probs = bench.step().fake_probs
    threshold = middle(probs.tolist(), exclusive)
    expected = Confidence(bench.task, threshold=threshold).label(bench.step())
    bench.networks["classifier"] = own
    found = Teacher(bench.task, threshold=threshold).label(bench.step())
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(bench.step().fake_probs, probs)
    assert found[1].sum() == 3


def middle(probs: list[list[float]], exclusive: bool) -> float:
    """A threshold above which half of the images are certain."""
    certainty = sorted(max(row) if exclusive else min(max(p, 1 - p) for p in row) for row in probs)
    return sum(certainty[len(certainty) // 2 - 1 :][:2]) / 2


# -- real images without labels --------------------------------------------------------------------


def said(step: TrainingStep, images: Tensor) -> list[list[float]]:
    return step.task.probabilities(step.classify(images)["logits"]).double().tolist()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_loss_of_images_without_labels(exclusive: bool, noise: float) -> None:
    step = Bench(exclusive=exclusive).step()
    assert step.unlabelled is not None
    source = rng("cpu", 0, "testing step")
    disturbed = step.unlabelled + noise * torch.randn(step.unlabelled.shape, generator=source)
    clean_probs = said(step, step.unlabelled)
    threshold, total = middle(clean_probs, exclusive), 0.0
    pairs = zip(clean_probs, said(step, disturbed), strict=True)
    for clean, seen in pairs:
        if exclusive:
            sure, losses = max(clean) > threshold, [-math.log(seen[clean.index(max(clean))])]
        else:
            sure = all(p > threshold or p < 1 - threshold for p in clean)
            losses = [-math.log(q if p > 0.5 else 1 - q) for p, q in zip(clean, seen, strict=True)]
        total += sure * math.fsum(losses) / len(losses)
    score = UnlabelledPseudoLabel(step.task, threshold=threshold, noise=noise)
    assert score(step).item() == pytest.approx(total / 6, rel=1e-4)
    assert step.records["unlabelled_pseudo_label_kept"].item() == pytest.approx(1 / 2)


def test_nothing_is_learned_through_the_label() -> None:
    """The gradient is that of the loss against labels which are given."""
    bench = Bench()
    parameters = list(bench.networks["classifier"].parameters())
    score = UnlabelledPseudoLabel(bench.task, threshold=0.0)
    found = torch.autograd.grad(score(bench.step()), parameters)
    step = bench.step()
    logits = step.classify(step.unlabelled)["logits"]  # type: ignore[arg-type]
    loss = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1))
    for ours, expected in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(ours, expected)


def graph_of(*overrides: str) -> TrainingGraph:
    recipe = load("ucgan_full", [*SMALL, *overrides])
    return assemble(recipe, Task(32, ("Pneumonia", "Edema", "Hernia"), exclusive=True))


def test_the_classifier_alone_learns_and_its_statistics_stay() -> None:
    graph = graph_of("scores.unlabelled_pseudo_label.threshold=0.0")
    graph.terms = [term for term in graph.terms if term.name == "unlabelled_pseudo_label"]
    graph._fake_statistics = False  # as where it learns from labels too
    buffers = [b.clone() for b in graph.networks["classifier"].buffers()]
    images = normal(0, 2, 6, 1, 32, 32).float().clamp(-1, 1)
    step = graph.step(images[0], torch.arange(6) % 3, rng("cpu", 0, "latent"), unlabelled=images[1])
    _, gradients = graph.gradients(step)
    learned = {n for n, found in gradients.items() if any(g is not None for g in found)}
    assert learned == {"classifier"}
    for before, after in zip(buffers, graph.networks["classifier"].buffers(), strict=True):
        assert not after.is_floating_point() or torch.equal(before, after)


def test_a_recipe_without_unlabelled_images_is_refused(tmp_path: Any) -> None:
    recipe = load("quickstart", [*SMALL, "run.steps=2", "scores.unlabelled_pseudo_label={}"])
    with pytest.raises(UserError, match=r"set \[data\] unlabelled = true and \[data\] limit"):
        run(recipe, tmp_path / "run", quiet=True)
