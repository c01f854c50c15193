"""Plugins that do what they must not: each is named, and what was trained before is kept."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import gan
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from xraygan_phantom.dataset import Phantom

from xraygan import (
    Augmenter,
    Generator,
    Labeler,
    Measurement,
    Metric,
    Objective,
    Score,
    Task,
    Tracker,
    UserError,
)
from xraygan.cli import main
from xraygan.errors import describe_error
from xraygan.graph.step import Step
from xraygan.parts.registry import Part, installed
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir import checkpoint
from xraygan.session.session import restore
from xraygan.testing.stand_ins import (
    StandInClassifier,
    StandInDiscriminator,
    StandInExtractor,
    StandInGenerator,
)
from xraygan.training.engine import run
from xraygan.training.final_evaluation import finish
from xraygan.utils.progress import Display

Register = Callable[..., None]


def silent() -> Display:
    return Display(Console(quiet=True))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Registers a part of another distribution, third-bad 1.0."""

    def add(kind: str, cls: type, name: str = "bad") -> None:
        part = Part(kind, name, "third-bad", "1.0", cls)
        monkeypatch.setitem(installed()._parts, (kind, name), part)

    return add


def only(group: str, *names: str, **words: Any) -> dict[str, Any]:
    """The tables of scores or metrics, without those of the shipped recipe."""
    shipped = load("ucgan_full", ["data.root=/nowhere"]).chosen(group)
    return {**dict.fromkeys(shipped, False), **{n: {"plugin": n, **words} for n in names}}


def refused(recipe: Recipe, out: Path, *words: str) -> str:
    """What is said of a run that ends for a plugin, which is named with its distribution."""
    with pytest.raises(UserError) as caught:
        run(recipe, out, display=silent())
    said = str(caught.value)
    assert "of third-bad 1.0" in said
    for word in words:
        assert word in said
    return said


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaving(BaseException):
    pass


def raising(error: BaseException) -> Callable[[Any], Any]:
    def raise_it(_: Any) -> Any:
        raise error

    return raise_it


# -- what a score returns --------------------------------------------------------------------------


def score(compute: Callable[[Step], Any]) -> type[Score]:
    class Bad(Score):
        """A score"""

        reads = ("generator",)

        def forward(self, step: Step) -> Tensor:
            return compute(step)

    return Bad


def with_score(**words: Any) -> Recipe:
    return gan(scores=only("scores", "bad", **words))


def changes_real(step: Step) -> Tensor:
    step.real.clamp_(0, 1)
    return step.fake.mean()


def changes_fake(step: Step) -> Tensor:
    with torch.no_grad():
        step.fake.mul_(0.5)
    return step.fake.mean()


def changes_labels(step: Step) -> Tensor:
    step.labels.zero_()
    return step.fake.mean()


def changes_latents(step: Step) -> Tensor:
    step.z.zero_()
    return step.fake.mean()


def replaces_real(step: Step) -> Tensor:
    step.real = step.real * 2
    return step.fake.mean()


def changes_a_network(step: Step) -> Tensor:
    with torch.no_grad():
        next(step.networks["discriminator"].parameters()).mul_(2)
    return step.fake.mean()


def freezes_a_network(step: Step) -> Tensor:
    step.networks["discriminator"].requires_grad_(False)
    return step.fake.mean()


def evaluates_a_network(step: Step) -> Tensor:
    step.networks["generator"].eval()
    return step.fake.mean()


def goes_back(step: Step) -> Tensor:
    value = step.fake_scores.mean()
    value.backward()
    return value


def goes_back_and_keeps(step: Step) -> Tensor:
    value = step.fake_scores.mean()
    value.backward(retain_graph=True)
    return value


class _Breaks(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradient: Tensor) -> Tensor:
        raise ValueError("no way back")


def records(name: Any, value: Any) -> Callable[[Step], Tensor]:
    def forward(step: Step) -> Tensor:
        step.record(name, value)
        return step.fake.mean()

    return forward


SCORES: dict[str, tuple[Callable[[Step], Any], str]] = {
    "rows": (lambda step: step.fake.mean(dim=(1, 2, 3)), "returned shape (8,); expected a scalar"),
    "one row": (lambda step: step.fake.mean().reshape(1), "returned shape (1,)"),
    "float": (lambda step: 0.5, "returned a float; expected a tensor"),
    "integer": (lambda step: 1, "returned a int; expected a tensor"),
    "None": (lambda step: None, "returned None; expected a tensor"),
    "dict": (lambda step: {"loss": step.fake.mean()}, "returned a dict; expected a tensor"),
    "tuple": (lambda step: (step.fake.mean(), {}), "returned a tuple; expected a tensor"),
    "array": (lambda step: np.float32(1), "returned a float32; expected a tensor"),
    "complex": (lambda step: step.fake.mean() * 1j, "returned torch.complex64"),
    "int64": (lambda step: torch.tensor(3), "returned torch.int64"),
    "bool": (lambda step: step.fake.mean() > 0, "returned torch.bool"),
    "float16": (lambda step: step.fake.mean().half(), "returned torch.float16"),
    "bfloat16": (lambda step: step.fake.mean().bfloat16(), "returned torch.bfloat16"),
    "device": (lambda step: step.fake.mean().to("meta"), "returned a tensor on meta"),
    "constant": (lambda step: torch.tensor(1.0), "no gradient reaches the generator"),
    "detached": (lambda step: step.fake.detach().mean(), "no gradient reaches the generator"),
    "leaf": (lambda step: torch.ones((), requires_grad=True), "no gradient reaches the generator"),
    "raises": (lambda step: 1 / 0, "forward() raised ZeroDivisionError: division by zero"),
    "assertion": (raising(AssertionError()), "forward() raised AssertionError"),
    "unprintable": (raising(Unprintable()), "raised Unprintable: (its message cannot be read)"),
    "long": (raising(ValueError("x" * 10**6)), "raised ValueError: xxx"),
    "exits": (lambda step: sys.exit(0), "forward() raised SystemExit: 0"),
    "leaves": (raising(Leaving("out")), "forward() raised Leaving: out"),
    "stops": (lambda step: next(iter(())), "forward() raised StopIteration"),
    "attribute": (lambda step: step.real_probz, "has no attribute 'real_probz'"),
    "network": (lambda step: step.fake_probs.mean(), "forward() raised KeyError: 'classifier'"),
    "real": (changes_real, "changed step.real, which others read"),
    "fake": (changes_fake, "changed step.fake, which others read"),
    "labels": (changes_labels, "changed step.labels, which others read"),
    "latents": (changes_latents, "changed step.z, which others read"),
    "other real": (replaces_real, "changed step.real, which others read"),
    "parameters": (changes_a_network, "changed the discriminator (its parameters"),
    "frozen": (freezes_a_network, "changed the discriminator"),
    "mode": (evaluates_a_network, "changed the generator"),
    "backward": (goes_back, "called backward()"),
    "backward, kept": (goes_back_and_keeps, "called backward()"),
    "breaks": (lambda step: _Breaks.apply(step.fake).mean(), "raised ValueError: no way back"),
    "record": (records("generator", torch.ones(())), "recorded 'generator', which is a term's"),
    "own record": (records("bad", torch.ones(())), "recorded 'bad', which is a term's name"),
    "float record": (records("x", 1.0), "recorded a float as 'x'; expected a tensor"),
    "rows record": (records("x", torch.ones(3)), "recorded (3,) as 'x'; expected a tensor"),
    "name record": (records(3, torch.ones(())), "recorded 3: the name is not text but int"),
}


@pytest.mark.parametrize("fault", SCORES)
def test_a_score_at_fault_is_named(fault: str, tmp_path: Path, register: Register) -> None:
    compute, words = SCORES[fault]
    register("score", score(compute))
    if fault == "breaks":
        words = "cannot be taken: ValueError: no way back"
    said = refused(with_score(), tmp_path / "run", "[scores.bad]", words)
    assert len(said) < 1500
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is None  # nobody has learned


def test_a_term_for_the_log_alone_needs_no_gradient(tmp_path: Path, register: Register) -> None:
    register("score", score(lambda step: torch.tensor(1.0)))
    run(with_score(trains=[]), tmp_path / "run", display=silent())


def test_a_term_whose_networks_learn_nothing_is_refused_for_a_recipe_too(
    tmp_path: Path, register: Register
) -> None:
    register("score", score(lambda step: step.fake.mean()))
    words = "no gradient reaches the discriminator, so nobody learns"
    refused(with_score(trains=["discriminator"]), tmp_path / "run", words)


# -- the training up to there ----------------------------------------------------------------------


def late(compute: Callable[[Step], Any], step: int = 2) -> Callable[[Step], Any]:
    """Does something else in step 0, 1, ... of four."""
    return lambda s: compute(s) if round(s.progress * 4) == step else s.fake.square().mean()


def bits(place: Path, step: int) -> dict[str, Tensor]:
    folder = place / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file.name}: {name}": tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of four steps with a score that is not at fault, and all its checkpoints."""
    out = tmp_path_factory.mktemp("whole") / "run"
    part = Part("score", "bad", "third-bad", "1.0", score(late(lambda s: s.fake.square().mean())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(installed()._parts, ("score", "bad"), part)
        run(training(), out, display=silent())
    yield out


def training() -> Recipe:
    words = {"save_every": 2, "keep": 0, "log_every": 3}
    return gan(scores=only("scores", "bad"), run=words)


@pytest.mark.parametrize("fault", ["raises", "exits", "real", "fake", "rows", "backward"])
def test_the_state_before_the_step_is_kept_and_resumed(
    fault: str, whole: Path, tmp_path: Path, register: Register
) -> None:
    """Also the batch norms', which the step had moved: a mended plugin gives the same bits."""
    register("score", score(late(SCORES[fault][0], step=3)))
    refused(training(), out := tmp_path / "run", "The run is saved at step 3")
    register("score", score(late(lambda s: s.fake.square().mean())))
    run(training(), out, resume=True, display=silent())
    ours, theirs = bits(out, 4), bits(whole, 4)
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [
        [json.loads(line)["terms"] for line in (place / "metrics.jsonl").read_text().splitlines()]
        for place in (out, whole)
    ]
    assert lines[0] == lines[1]


def test_a_network_that_a_part_has_changed_is_not_saved(tmp_path: Path, register: Register) -> None:
    """It waits for the phase in which it first learns."""

    class Waiting(Score):
        reads = ("generator",)

        def forward(self, step: Step) -> Tensor:
            return changes_a_network(step)

    register("score", Waiting)
    phases = [{"until": 0.5, "waits": ["generator"]}, {"ratio": "1:1"}]
    recipe = gan(scores=only("scores", "bad"), schedule={"phases": phases})
    refused(recipe, tmp_path / "run", "changed the discriminator", "Nothing was trained yet")
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is None


def test_what_counts_its_calls_is_named_where_it_is_not_a_number(
    tmp_path: Path, register: Register
) -> None:
    calls: list[int] = []

    def forward(step: Step) -> Tensor:
        calls.append(1)
        return step.fake.mean() * (float("nan") if len(calls) == 3 else 1.0)

    register("score", score(forward))
    said = refused(with_score(), tmp_path / "run", "step 3", "the term 'bad' was nan")
    assert "too large" not in said


@pytest.mark.parametrize("kept", ["value", "step", "fake", "graph"])
def test_a_score_that_keeps_every_graph_is_said(
    kept: str, tmp_path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    held: list[Any] = []

    def forward(step: Step) -> Tensor:
        value = step.fake.square().mean()
        found = {"value": value, "step": step, "fake": step.fake, "graph": value * 2}
        held.append(found[kept])
        return value

    register("score", score(forward))

    def of_eight_steps() -> Recipe:
        return gan(scores=only("scores", "bad"), run={"steps": 8})

    with caplog.at_level(logging.WARNING):
        run(of_eight_steps(), tmp_path / "run", display=silent())
    [said] = [r.message for r in caplog.records if "memory will run out" in r.message]
    assert "[scores.bad] (the score 'bad' of third-bad 1.0)" in said
    caplog.clear()
    register(
        "score", score(lambda step: (held.append(step.fake.mean().item()), step.fake.mean())[1])
    )
    with caplog.at_level(logging.WARNING):
        run(of_eight_steps(), tmp_path / "well", display=silent())
    assert "memory" not in caplog.text


# -- the other kinds of parts ----------------------------------------------------------------------


class Good(nn.Module):
    pass


def part(base: type, method: str, compute: Callable[..., Any]) -> type:
    """A part of a kind, of which one method does something else."""
    return type("Bad", (base,), {method: lambda self, *given: compute(*given)})


class PlainGenerator(StandInGenerator):
    conditional = False

    def __init__(self, about: Task) -> None:
        Generator.__init__(self)
        self.size = about.image_size
        self.layer = nn.Linear(self.latent_size, self.size**2)


class PlainObjective(Objective):
    def generator_loss(self, step: Step) -> Tensor:
        return -step.fake_scores.mean()

    def discriminator_loss(self, step: Step) -> Tensor:
        return step.fake_scores.mean() - step.real_scores.mean()


class PlainAugmenter(Augmenter):
    def forward(self, images: Tensor, step: Step) -> Tensor:
        return images * 1


class PlainLabeler(Labeler):
    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        return step.fake_logits.argmax(dim=1), torch.ones(len(step.fake_logits))


class Reading(Score):
    """Reads an extractor"""

    def __init__(self, *, extractor: str = "bad") -> None:
        super().__init__()

    reads = ("generator",)

    def forward(self, step: Step) -> Tensor:
        return step.features("bad", "fake")["second"].mean()


def shrunk(images: Tensor, *_: Any) -> Tensor:
    return images[:, :, ::2, ::2]


#: what it is -> (kind, its class, the recipe's tables, what is said)
PARTS: dict[str, tuple[str, type, dict[str, Any], str]] = {}


def case(name: str, kind: str, cls: type, words: str, **tables: Any) -> None:
    table = tables or {kind: {"plugin": "bad"}}
    PARTS[f"{kind}: {name}"] = (kind, cls, table, words)


G, D = PlainGenerator, StandInDiscriminator
for name, make, words in (
    ("raises", lambda *_: 1 / 0, "forward() raised ZeroDivisionError"),
    ("exits", lambda *_: sys.exit(0), "forward() raised SystemExit: 0"),
    ("None", lambda *_: None, "forward() returned None; expected a tensor"),
    ("flat", lambda z: z, "forward() returned shape (8, 8); expected (8, 1, 32, 32)"),
    ("colour", lambda z: torch.zeros(len(z), 3, 32, 32), "expected (8, 1, 32, 32)"),
    ("bytes", lambda z: torch.zeros(len(z), 1, 32, 32, dtype=torch.uint8), "torch.uint8"),
):
    case(name, "generator", part(G, "forward", make), words)
for name, make, words in (
    ("raises", lambda *_: 1 / 0, "forward() raised ZeroDivisionError"),
    ("column", lambda x: x.mean(dim=(1, 2)), "forward() returned shape (8, 32); expected (8)"),
    ("one", lambda x: x.mean(), "forward() returned shape (); expected (8)"),
    ("dict", lambda x: {"logits": x}, "forward() returned a dict; expected a tensor"),
):
    case(name, "discriminator", part(D, "forward", make), words)
for name, method, make, words in (
    ("raises", "generator_loss", lambda s: 1 / 0, "generator_loss() raised ZeroDivisionError"),
    ("rows", "generator_loss", lambda s: s.fake_scores, "generator_loss() returned shape (8,)"),
    ("None", "discriminator_loss", lambda s: None, "discriminator_loss() returned None"),
    ("other", "discriminator_loss", lambda s: s.fake.mean(), "no gradient reaches the discrimin"),
):
    case(name, "objective", part(PlainObjective, method, make), words)
for name, method, make, words in (
    ("raises", "forward", lambda x, s: 1 / 0, "forward() raised ZeroDivisionError"),
    ("small", "forward", shrunk, "forward() returned shape (8, 1, 16, 16); expected (8, 1, 32,"),
    ("in place", "forward", lambda x, s: x.detach().clamp_(0, 1), "changed step."),
    ("watches", "watch", lambda scores: 1 / 0, "watch() raised ZeroDivisionError"),
    ("adapts", "adapt", lambda held: 1 / 0, "adapt() raised ZeroDivisionError"),
):
    case(name, "augmenter", part(PlainAugmenter, method, make), words)
C: dict[str, Any] = {"classifier": {"plugin": "bad"}}
for name, method, make, words in (
    ("raises", "forward", lambda x: 1 / 0, "forward() raised ZeroDivisionError"),
    ("tensor", "forward", lambda x: x.mean(dim=(1, 2)), "returned a Tensor; expected tensors by"),
    ("no logits", "forward", lambda x: {"features": x[:, 0, 0]}, "'logits' is missing"),
    (
        "wide",
        "forward",
        lambda x: {"features": x[:, 0, 0], "logits": x[:, 0, 0]},
        "logits of shape",
    ),
    ("losses", "losses", lambda logits, labels: logits.mean(), "losses() returned shape ()"),
):
    case(name, "classifier", part(StandInClassifier, method, make), words)
for name, make, words in (
    ("raises", lambda s: 1 / 0, "label() raised ZeroDivisionError"),
    ("labels alone", lambda s: s.fake_logits.argmax(dim=1), "label() returned a Tensor; expected"),
    ("vectors", lambda s: (s.fake_probs.detach(), torch.ones(8)), "labels of shape (8, 2)"),
    ("floats", lambda s: (torch.ones(8), torch.ones(8)), "labels of torch.float32; expected int64"),
    ("one weight", lambda s: (s.labels, torch.ones(1)), "weights of shape (1,); expected (8,)"),
    ("gradient", lambda s: (s.labels, s.fake_probs[:, 0]), "weights with a gradient"),
):
    trains = {"plugin": "bad", "trains": ["classifier"]}
    case(name, "labeler", part(PlainLabeler, "label", make), words, labeler=trains,
         classifier={"plugin": "plain"})  # fmt: skip
for name, make, words in (
    ("raises", lambda x: 1 / 0, "forward() raised ZeroDivisionError"),
    ("tensor", lambda x: x, "returned a Tensor; expected tensors by name"),
    ("empty", lambda x: {}, "returned no map; expected tensors by name"),
    ("one row", lambda x: {"second": x[:1]}, "'second' of shape (1, 1, 32, 32); expected 8 rows"),
):
    case(name, "extractor", part(StandInExtractor, "forward", make), words,
         extractors={"bad": {"plugin": "bad"}}, scores=only("scores", "reads"))  # fmt: skip


@pytest.mark.parametrize("fault", PARTS)
def test_a_part_at_fault_is_named(fault: str, tmp_path: Path, register: Register) -> None:
    kind, cls, tables, words = PARTS[fault]
    register("classifier", StandInClassifier, "plain")
    register("score", Reading, "reads")
    register(kind, cls)
    refused(gan(**tables), tmp_path / "run", f"the {kind} 'bad' of third-bad 1.0: ", words)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is None  # nobody has learned


@pytest.mark.parametrize("kind", ["generator", "discriminator", "objective", "augmenter"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (raising(ValueError("bad luck")), "its constructor raised ValueError: bad luck"),
        (lambda _: sys.exit(0), "its constructor raised SystemExit: 0"),
    ],
)
def test_a_constructor_at_fault_is_named(
    kind: str, make: Any, words: str, tmp_path: Path, register: Register
) -> None:
    base = {"generator": G, "discriminator": D, "objective": PlainObjective,
            "augmenter": PlainAugmenter}[kind]  # fmt: skip
    register(kind, type("Bad", (base,), {"__init__": lambda self, *given: make(given)}))
    out = tmp_path / "run"
    refused(gan(**{kind: {"plugin": "bad"}}), out, f"the {kind} 'bad' of third-bad 1.0: {words}")
    assert not out.exists() or kind == "objective"


# -- metrics ---------------------------------------------------------------------------------------


class One(Metric):
    """Measures a one"""

    def compute(self, evaluation: Any) -> Mapping[str, Measurement]:
        return {"one": Measurement(1.0, 4)}


def metric(compute: Callable[[Any], Any]) -> type[Metric]:
    return part(One, "compute", compute)


def measured(value: Any, **words: Any) -> Callable[[Any], Any]:
    return lambda _: {"bad": Measurement(value, **{"n": 4, **words})}


METRICS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "raises": (lambda _: 1 / 0, "compute() raised ZeroDivisionError"),
    "exits": (lambda _: sys.exit(0), "compute() raised SystemExit: 0"),
    "None": (lambda _: None, "compute() returned None; expected Measurements by name"),
    "string": (lambda _: "good", "compute() returned a str; expected Measurements by name"),
    "number": (lambda _: {"bad": 0.5}, "returned a float for 'bad'; expected a xraygan.Measure"),
    "float32": (lambda _: {"bad": np.float32(1)}, "returned a float32 for 'bad'"),
    "nested": (lambda _: {"bad": {"x": 0.5}}, "returned a dict for 'bad'"),
    "tensor": (measured(torch.ones(())), "measured 'bad' as a Tensor; expected a number; take its"),
    "text": (measured("high"), "measured 'bad' as a str; expected a number"),
    "dict value": (measured({"x": 1.0}), "measured 'bad' as a dict"),
    "name": (lambda _: {3: Measurement(1.0, 4)}, "measured 3: the name is not text but int"),
    "n": (measured(1.0, n=None), "gave 'bad' the n None"),
    "note": (measured(1.0, note=None), "gave 'bad' the note None"),
    "interval": (measured(1.0, interval=(1.0,)), "gave 'bad' the interval (1.0,)"),
    "better": (measured(1.0, better="more"), "gave 'bad' better='more'"),
    "resamples": (
        measured(1.0, resamples=np.ones(7)),
        "gave 'bad' resamples of shape (7,); expected 0",
    ),
    "another's": (lambda _: {"one": Measurement(2.0, 4)}, "measured 'one', which another metric"),
}


def with_metric(**words: Any) -> Recipe:
    return gan(metrics=only("metrics", "one", "bad"), run={"steps": 2, **words})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two steps, one of whose metrics failed."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, cls in (("one", One), ("bad", metric(lambda _: 1 / 0))):
            target = Part("metric", name, "third-bad", "1.0", cls)
            patch.setitem(installed()._parts, ("metric", name), target)
        refused(with_metric(), out, "compute() raised ZeroDivisionError", "xraygan evaluate")
    yield out


def figures(out: Path) -> dict[str, Any]:
    return json.loads((out / "evaluation.json").read_text())


@pytest.mark.parametrize("fault", METRICS)
def test_a_metric_at_fault_costs_no_other_figure(
    fault: str, trained: Path, register: Register
) -> None:
    compute, words = METRICS[fault]
    register("metric", One, "one")
    register("metric", metric(compute))
    session, place, step = restore(trained, (), silent())
    with pytest.raises(UserError) as caught:
        finish(session, place, step)
    said = f"[metrics.bad]: the metric 'bad' of third-bad 1.0: compute() {words}"
    assert said.replace("compute() compute()", "compute()") in str(caught.value)
    found = figures(trained)
    assert found["metrics"]["one"]["value"] == 1.0 and set(found["metrics"]) == {"one"}
    assert set(found["failed"]) == {"bad"} and "third-bad 1.0" in found["failed"]["bad"]
    assert "third-bad 1.0" in (trained / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (float("nan"), None),
        (np.float64("inf"), None),
        ([[np.float32(1), 2], [3, np.nan]], [[1.0, 2], [3, None]]),
    ],
)
def test_numbers_of_any_kind_are_figures(
    value: Any, kept: Any, trained: Path, tmp_path: Path, register: Register
) -> None:
    register("metric", One, "one")
    register("metric", metric(measured(value, interval=(np.float32(0), np.float64(4)))))
    session, place, step = restore(trained, (), silent())
    place.evaluation = tmp_path / "evaluation.json"
    finish(session, place, step)
    found = figures(tmp_path)
    assert found["metrics"]["bad"]["value"] == kept and "failed" not in found
    assert found["metrics"]["bad"]["interval"] == [0.0, 4.0]
    assert found["metrics"]["bad"]["note"] or kept is not None


def test_what_failed_is_measured_again_and_what_is_whole_is_kept(
    tmp_path: Path, register: Register
) -> None:
    register("metric", One, "one")
    register("metric", metric(lambda _: 1 / 0))
    refused(with_metric(), out := tmp_path / "run", "has the figures of the others")
    register("metric", metric(measured(2.0)))
    run(with_metric(), out, resume=True, display=silent())
    assert figures(out)["metrics"]["bad"]["value"] == 2.0 and "failed" not in figures(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    register("metric", metric(lambda _: 1 / 0))
    session, place, step = restore(out, (), silent())
    with pytest.raises(UserError, match="is left as it was"):
        finish(session, place, step)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_metric_that_fails_while_a_run_trains_does_not_end_it(
    tmp_path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register("metric", One, "one")
    register("metric", metric(lambda e: 1 / 0 if e.split == "val" else measured(1.0)(e)))
    recipe = gan(
        metrics=only("metrics", "one", "bad"),
        run={"steps": 4, "evaluate_every": 2},
        data={"validation": 0.3},
    )
    with caplog.at_level(logging.WARNING):
        run(recipe, tmp_path / "run", display=silent())
    assert "step 2: not measured: [metrics.bad]: the metric 'bad' of third-bad 1.0" in caplog.text
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [x["evaluation"] for x in map(json.loads, lines) if "evaluation" in x] == [{"one": 1.0}]


# -- trackers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["begin", "log", "image", "close"])
@pytest.mark.parametrize("error", [ValueError("away"), SystemExit(0), Unprintable()])
def test_a_tracker_at_fault_is_named_and_in_nobodys_way(
    method: str,
    error: BaseException,
    tmp_path: Path,
    register: Register,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bad(Tracker):
        def __init__(self, directory: Path) -> None: ...

        def log(self, step: int, values: Mapping[str, float]) -> None:
            values.clear()  # type: ignore[attr-defined]

    def raise_it(*_: Any) -> None:
        raise error

    setattr(Bad, method, raise_it)
    register("tracker", Bad)
    recipe = gan(trackers={"bad": {"plugin": "bad"}}, run={"steps": 2, "sample_every": 1})
    with caplog.at_level(logging.WARNING):
        run(recipe, tmp_path / "run", display=silent())
    [said] = [r.message for r in caplog.records if "[trackers.bad]" in r.message]
    assert f"the tracker 'bad' of third-bad 1.0) is told nothing more: {method}() raised" in said
    assert (tmp_path / "run" / "evaluation.json").exists()


# -- datasets --------------------------------------------------------------------------------------


def table(change: Callable[[pd.DataFrame], Any]) -> type[Phantom]:
    class Bad(Phantom):
        classes = Phantom.classes

        def index(self) -> Any:
            return change(super().index())

    return Bad


FINE: dict[str, Callable[[pd.DataFrame], Any]] = {
    "categories": lambda t: t.astype({"patient": "category", "split": "category"}),
    "category of ages": lambda t: t.assign(age=t["age"].round().astype("category")),
    "ages of numpy": lambda t: t.assign(age=t["age"].round().astype(np.int16)),
    "index": lambda t: t.set_index(pd.Index([7] * len(t))),
    "index of texts": lambda t: t.set_index(t["path"]),
    "more columns": lambda t: t.assign(**{"x": 1}).rename(columns={"x": 5}),
}
BROKEN: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "None": (lambda t: None, "index() returned NoneType; expected a pandas DataFrame"),
    "raises": (lambda t: 1 / 0, "index() raised ZeroDivisionError"),
    "exits": (lambda t: sys.exit(0), "index() raised SystemExit: 0"),
    "twice": (lambda t: pd.concat([t, t[["path"]]], axis=1), "column 'path' is there twice"),
    "numbered": (lambda t: t.rename(columns={"split": 3}), "column 'split' is missing"),
    "levels": (lambda t: pd.concat({"x": t}, axis=1), "column 'path' is missing"),
    "patients": (lambda t: t.assign(patient=np.arange(len(t))), "patient is 0, which is no text"),
    "labels": (lambda t: t.assign(labels=0), "labels is 0, which is no tuple"),
    "label sets": (lambda t: t.assign(labels=[{"Edema"}] * len(t)), "which is no tuple"),
    "paths": (lambda t: t.assign(path=np.arange(len(t))), "path is 0, which is no text"),
    "one path": (lambda t: t.assign(path="a.png"), "the path 'a.png' is in two rows"),
    "no split": (lambda t: t.assign(split=None), "which is no text; expected 'train'"),
    "ages": (lambda t: t.assign(age="old"), "age is not of numbers"),
}


def with_data(cls: type, register: Register) -> Recipe:
    register("dataset", cls)
    return gan(
        data={"plugin": "bad", "images": 120, "image_size": 32, "classes": ["Edema", "Mass"]}
    )


@pytest.mark.parametrize("kind", FINE)
def test_a_table_of_any_kind_that_says_the_same_is_taken(
    kind: str, tmp_path: Path, register: Register
) -> None:
    run(with_data(table(FINE[kind]), register), tmp_path / "run", display=silent())


@pytest.mark.parametrize("fault", BROKEN)
def test_a_table_at_fault_is_named(fault: str, tmp_path: Path, register: Register) -> None:
    change, words = BROKEN[fault]
    refused(with_data(table(change), register), tmp_path / "run", "the dataset 'bad' of", words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("notes", "a note", "notes is 'a note'; expected a tuple of texts"),
        ("notes", (1,), "notes is (1,); expected a tuple of texts"),
        ("left_out", [3], "left_out is [3]; expected reason -> number"),
        ("left_out", {"lost": "many"}, "left_out is {'lost': 'many'}"),
        ("classes", ["Edema", 3], "classes is ['Edema', 3]; expected a tuple of names"),
        ("classes", property(lambda self: 1 / 0), "raised ZeroDivisionError"),
        ("identity", lambda self, path: None, "identity() of "),
        ("identity", lambda self, path: sys.exit(0), "identity() raised SystemExit: 0"),
    ],
)
def test_what_a_dataset_says_beside_its_table(
    name: str, value: Any, words: str, tmp_path: Path, register: Register
) -> None:
    bad = type("Bad", (Phantom,), {name: value})
    refused(with_data(bad, register), tmp_path / "run", "the dataset 'bad' of", words)


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize("traceback", [False, True])
def test_exit_code_2_with_a_traceback_and_without(
    traceback: bool, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    register("score", score(lambda step: sys.exit(0)))
    recipe = tmp_path / "gan.toml"
    import tomli_w

    recipe.write_text(tomli_w.dumps(with_score().resolved()))
    words = ["run", str(recipe), "--out", str(tmp_path / "run"), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["xraygan", *["--traceback"] * traceback, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "the score 'bad' of third-bad 1.0: forward() raised SystemExit: 0" in said
    assert ("Traceback" in said) == traceback


def test_an_error_is_one_line_whatever_its_text() -> None:
    assert describe_error(ValueError("a\n b")) == "ValueError: a b"
    assert describe_error(ValueError()) == "ValueError"
    assert len(describe_error(ValueError("x" * 10**6))) < 600
    assert load("quickstart")  # and the registry is as it was
