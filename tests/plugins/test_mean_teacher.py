"""The mean teacher: a classifier held to its own average."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xraygan_meanteacher.consistency import MeanTeacher, sigmoid_ramp, translate

from xraygan import Task
from xraygan.graph.build import assemble
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.recipe.loading import load
from xraygan.utils.seeding import rng

FINDINGS = ("Pneumonia", "Edema", "Hernia")
GREY = (
    *(word for word in SMALL if word.startswith(("data.", "run."))),
    "classifier.plugin=resnet18",
    "classifier.weights=random",
    'data.classes=["Pneumonia", "Edema", "Hernia"]',
    "evaluation.protocol=official",
)


def graph_of(*overrides: str) -> TrainingGraph:
    chosen = load("mean_teacher", [*GREY, *overrides])
    return assemble(chosen, Task(32, FINDINGS, exclusive=False))


def step_of(graph: TrainingGraph, number: int = 0, **context: object) -> TrainingStep:
    images = torch.rand(2, 6, 1, 32, 32, generator=rng("cpu", number, "images")) * 2 - 1
    labels = torch.eye(3).repeat(2, 1)
    given = {"unlabelled": images[1], "progress": 0.9, **context}
    return graph.step(images[0], labels, rng("cpu", number, "latent"), **given)


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_the_weight_rises_to_one(progress: float, length: float) -> None:
    weight = float(sigmoid_ramp(torch.tensor(progress, dtype=torch.float64), length))
    if progress >= length:
        assert weight == 1
    else:
        assert weight == pytest.approx(math.e ** (-5 * (1 - progress / length) ** 2))
        assert math.exp(-5) <= weight <= 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=4))
def test_images_move_and_repeat_their_edge(moves: list[tuple[int, int]]) -> None:
    images = torch.randn(len(moves), 1, 5, 5)
    down, right = (torch.tensor(by) for by in zip(*moves, strict=True))
    moved = translate(images, down, right)
    for i, (by_row, by_column) in enumerate(moves):
        for row in range(5):
            for column in range(5):
                source = min(max(row - by_row, 0), 4), min(max(column - by_column, 0), 4)
                assert moved[i, 0, row, column] == images[i, 0, source[0], source[1]]


def test_the_teacher_follows_the_student() -> None:
    """w' <- a w' + (1 - a) w with a <= 1 - 1 / (t + 1), in a float64 loop over each step."""
    graph = graph_of("classifier.average=0.6")
    student = dict(graph.networks["classifier"].named_parameters())
    teacher = dict(graph.ema["classifier"].named_parameters())
    expected = {name: value.detach().double().clone() for name, value in student.items()}
    for number in range(4):
        _, gradients = graph.gradients(step_of(graph, number))
        graph.update(gradients, number)
        a = min(0.6, 1 - 1 / (number + 1))
        for name, value in student.items():
            expected[name] = a * expected[name] + (1 - a) * value.detach().double()
    for name, value in teacher.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, student[name])


def test_consistency_is_the_mean_squared_difference_of_probabilities() -> None:
    graph = graph_of()
    with torch.no_grad():
        for parameter in graph.ema["classifier"].parameters():
            parameter.mul_(1.1)
    score = MeanTeacher(noise=0.0, translation=0.0, ramp_up=1.0)
    step = step_of(graph, progress=0.5)
    found = float(score(step).detach())
    assert step.unlabelled is not None
    pairs = [step.classify(step.unlabelled, averaged=averaged)["logits"].tolist()
             for averaged in (False, True)]  # fmt: skip
    squares = [
        (1 / (1 + math.exp(-x)) - 1 / (1 + math.exp(-y))) ** 2
        for row, other in zip(*pairs, strict=True)
        for x, y in zip(row, other, strict=True)
    ]
    assert len(squares) == 18 and max(squares) > 0
    ramp = math.exp(-5 * 0.25)
    assert found == pytest.approx(ramp * math.fsum(squares) / 18, rel=1e-4)


def test_only_the_student_learns_and_statistics_stay_those_of_labelled_images() -> None:
    graph = graph_of()
    graph.terms = [term for term in graph.terms if term.name == "mean_teacher"]
    buffers = [b.clone() for b in graph.networks["classifier"].buffers() if b.is_floating_point()]
    values, gradients = graph.gradients(step_of(graph))
    assert float(values["mean_teacher"]) > 0  # the perturbations differ
    assert any(g is not None and bool(g.any()) for g in gradients["classifier"])
    assert all(p.grad is None and not p.requires_grad for p in graph.ema["classifier"].parameters())
    after = [b for b in graph.networks["classifier"].buffers() if b.is_floating_point()]
    assert all(map(torch.equal, buffers, after))


def test_it_looks_at_the_images_without_labels_if_there_are_any() -> None:
    graph = graph_of()
    seen: list[Tensor] = []
    graph.networks["classifier"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    score = MeanTeacher(noise=0.0, translation=0.0)
    step = step_of(graph)
    score(step)
    assert step.unlabelled is not None and torch.equal(seen[-1], step.unlabelled)
    score(step_of(graph, unlabelled=None))
    assert torch.equal(seen[-1], step.real)
