"""Steps that are captured and replayed: on a processor, with a recording that calls them again."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from rich.console import Console
from torch import Tensor
from xraygan_meanteacher.consistency import MeanTeacher

from xraygan.graph.streams import FixedStreams, NotedStreams, Streams
from xraygan.recipe.loading import load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.capture import WARM_UP, CapturedSteps, Taken, _waits
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

CPU = torch.device("cpu")
STEPS = 9
GIVEN = (
    "data.plugin=phantom", "data.images=400", "data.image_size=32", "data.limit=9", "metrics=false",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]', "classifier.weights=random",
    "run.steps=9", "run.batch_size=8",
)  # fmt: skip


class Again:
    """Calls the captured function again: as a graph would, it sees the tensors and values that it
    was captured with, and nothing else."""

    made = 0

    def __init__(self, run: Callable[[], dict[str, Tensor]], streams: FixedStreams) -> None:
        type(self).made += 1
        self.replay = run


def trained(recipe: str, folder: Path, *overrides: str, captured: bool) -> tuple[Trainer, list]:
    """A recipe after some steps, and the values of each."""
    silent = Display(Console(quiet=True))
    session = Session.of(load(recipe, [*GIVEN, *overrides]), silent)
    trainer = Trainer(session, RunDirectory(folder), silent)
    if captured:
        optimizers = list(trainer.graph.optimizers.values())
        trainer.captured = CapturedSteps(trainer.device, optimizers, record=Again)
    values = [{n: float(v) for n, v in trainer.step(i).items()} for i in range(STEPS)]
    return trainer, values


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (
            "cgan",
            [
                "schedule.phases=[{ratio='1:2', until=0.8}, {ratio='1:1'}]", "augmenter.plugin=ada",
                "data.augmentation={}", "generator.optimizer.schedule=cosine",
                "generator.average=0.9", "objective.plugin=hinge", "data.unlabelled=true",
                "classifier.plugin=resnet18",
            ],
        ),
        pytest.param(
            "mean_teacher",
            ["classifier.plugin=resnet18", "evaluation.protocol=official"],
            marks=pytest.mark.slow,
        ),
        pytest.param("ucgan_full", [*SMALL, "generator.average=0.9"], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_replayed_steps_are_those_of_an_eager_run(
    recipe: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Again, "made", 0)
    ours, found = trained(recipe, tmp_path / "a", *overrides, captured=True)
    plain, expected = trained(recipe, tmp_path / "b", *overrides, captured=False)
    assert Again.made
    assert found == expected
    for name, network in plain.graph.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(ours.graph.networks[name].state_dict()[key], value), (name, key)
    for name, network in plain.graph.ema.items():
        for key, value in network.state_dict().items():
            assert torch.equal(ours.graph.ema[name].state_dict()[key], value), (name, key)


def test_a_step_that_follows_the_progress_stays_eager_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Again, "made", 0)
    caplog.set_level(logging.WARNING)
    words = ["classifier.plugin=resnet18", "evaluation.protocol=official"]
    forward = MeanTeacher.forward
    monkeypatch.setattr(
        MeanTeacher, "forward", lambda score, step: step.progress + forward(score, step)
    )
    _, found = trained("mean_teacher", tmp_path / "a", *words, captured=True)
    assert not Again.made
    assert "[scores.mean_teacher] follows the run's progress" in caplog.text
    assert found == trained("mean_teacher", tmp_path / "b", *words, captured=False)[1]


def test_streams_that_stay_the_same_give_the_numbers_of_each_step() -> None:
    def draw(streams: Streams) -> list[Tensor]:
        first = torch.rand(3, generator=streams.generator("a"))
        streams.generator("unused")
        with streams.dropout("b", 0):
            second = torch.rand(3)
            with streams.dropout("inner"):
                third = torch.rand(2)
            fourth = torch.rand(1)
        with streams.dropout("unused"):
            pass
        return [first, second, third, fourth]

    noted = NotedStreams(CPU, 1)
    draw(noted)
    assert noted.purposes() == [
        (("a",), True), (("unused",), False), (("dropout", "b", 0), True),
        (("dropout", "inner"), True), (("dropout", "unused"), False),
    ]  # fmt: skip
    fixed = FixedStreams(CPU, noted.purposes())
    assert len(fixed.generators) == 3
    before = torch.get_rng_state()
    for seed in (5, 6):
        fixed.begin(seed)
        for ours, theirs in zip(draw(fixed), draw(Streams(CPU, seed)), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(torch.get_rng_state(), before)
    fixed.begin(7)
    with pytest.raises(RuntimeError, match="where"):
        fixed.generator("another")


def test_what_waits_for_a_gpu_is_named_by_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with _waits(torch.device("cuda")) as found:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another thing", stacklevel=1)
    line = inspect.currentframe().f_lineno - 2  # type: ignore[union-attr]
    assert found == [f"training/test_capture.py, line {line}, waits for the GPU"]
    assert modes == ["warn", 0]


def test_steps_are_eager_until_their_kind_was_seen(tmp_path: Path) -> None:
    calls: list[float] = []

    def body(inputs: Sequence[Tensor], streams: Streams) -> Taken:
        calls.append(float(inputs[0]))
        return Taken({"twice": inputs[0] * 2}, [])

    steps = CapturedSteps(CPU, [], record=Again)
    found = [steps.take("a", [torch.tensor(float(i))], i, body) for i in range(WARM_UP + 2)]
    assert [float(values["twice"]) for values in found] == [2.0 * i for i in range(WARM_UP + 2)]
    assert len(calls) == WARM_UP + 2 and steps.is_replayed("a") and not steps.is_replayed("b")
