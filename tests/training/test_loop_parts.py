"""The training loop by itself, around a graph and callbacks that note what they are asked."""

from __future__ import annotations

import logging
import math
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import gan
from rich.console import Console
from torch import Tensor, nn

from xraygan import Augmenter, UserError
from xraygan.distributed.ranks import DistributedContext, RankFailed
from xraygan.parts.plugin_errors import PluginFault
from xraygan.recipe.optimization import Phase, Schedule
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.manifest import Gathered
from xraygan.session.session import Session
from xraygan.training import nonfinite
from xraygan.training.callbacks import Callbacks, MetricAccumulator
from xraygan.training.step_source import StepSource
from xraygan.training.trainer import Trainer, _scaled, _sum
from xraygan.utils.progress import Display
from xraygan.utils.seeding import derive_seed
from xraygan.utils.signals import Interrupted

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Ours(DistributedContext):
    """The second of three ranks, whose collectives answer as if all were alike."""

    def largest(self, *values: int) -> list[int]:
        return list(values)

    def average(self, values: Any) -> dict[str, float]:
        return {name: value + 100 for name, value in values.items()}

    def wait(self) -> None:
        pass


class Graph:
    """One network with a weight and a buffer; its terms are numbers that a test gives."""

    def __init__(self) -> None:
        self.network = nn.BatchNorm1d(1)
        self.networks = {"generator": self.network}
        self.extractors: dict[str, Any] = {}
        self.optimizers = dict.fromkeys(("generator", "discriminator", "classifier"))
        self.terms = [SimpleNamespace(name="loss", trains={"generator"}),
                      SimpleNamespace(name="logged", trains=frozenset()),
                      SimpleNamespace(name="waits", trains={"discriminator"})]  # fmt: skip
        self.has_third_party = False
        self.leak_check = SimpleNamespace(observe=lambda *given: self.noted.append(given))
        self.noted: list[Any] = []
        self.steps: list[tuple[tuple, dict]] = []
        self.updates: list[tuple] = []
        self.values: list[float] = []
        self.fault: Exception | None = None

    def buffers(self) -> list[Tensor]:
        return [self.network.running_mean]  # type: ignore[list-item]

    def step(self, *given: Any, **more: Any) -> Any:
        self.steps.append((given, more))
        records: dict[str, Tensor] = {"first": torch.tensor(float(len(self.steps)))}
        return SimpleNamespace(
            records=records,
            learning=more["learning"],
            real_scores=torch.tensor([1.0, -1.0]),
            fake_scores=torch.tensor([-1.0, -1.0]),
            record=records.__setitem__,
            watch=SimpleNamespace(values={"seen": [len(self.steps)]}),
        )

    def gradients(self, current: Any) -> tuple[dict[str, Tensor], dict]:
        assert current.record  # the step that is built for it
        self.network.running_mean += 1  # type: ignore[operator]
        if self.fault is not None:
            raise self.fault
        value = torch.tensor(self.values.pop(0) if self.values else 1.0)
        return {"loss": value, "logged": value * 10}, {"generator": [value * 2, None]}

    def mean_over_ranks(self, gradients: dict) -> dict:
        return {"generator": [gradients["generator"][0] + 0.5, None]}

    def update(self, *given: Any) -> None:
        self.updates.append(given)

    def describe_term_origin(self, name: str) -> str:
        return f"the score {name!r} of other 1.0" if name != "logged" else ""


class Batches:
    """Batches that are known by what they were asked with."""

    steps_per_epoch = 5

    def __init__(self, name: str = "train") -> None:
        self.name = name

    def draw(self, step: int, shard: tuple[int, int]) -> Any:
        return (self.name, step, shard)

    def gather(self, drawn: Any) -> tuple[Any, Any, Any]:
        return drawn, "labels", "metadata"


class Kept:
    """Callbacks that note what they are asked."""

    newest_sample: Path | None = None

    def __init__(self, fail: type[Exception] | None = None) -> None:
        self.calls: list[tuple] = []

    def on_step_end(self, done: int, meter: MetricAccumulator) -> None:
        self.calls.append(("step end", done, meter))

    def save(self, done: int, meter: MetricAccumulator) -> None:
        self.calls.append(("save", done, meter))

    def log(self, done: int, reading: Any) -> None:
        self.calls.append(("log", done, reading))

    def on_train_start(self, done: int) -> None:
        self.calls.append(("start", done))


class Shown:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.began: list[tuple] = []
        self.said: list[tuple] = []

    @contextmanager
    def training(self, total: int, *, done: int) -> Any:
        self.began.append((total, done))
        yield lambda *said: self.said.append(said)


def loop_with(tmp_path: Path, **changes: Any) -> Any:
    """A loop of six steps without a session, some words of whose recipe are changed."""
    words = {"seed": 3, "accumulate": 1, "on_nonfinite": "stop", "compile": "off", "log_every": 4,
             "save_every": 0, "sample_every": 0, "evaluate_every": 0, "keep": 2}  # fmt: skip
    loop: Any = Trainer.__new__(Trainer)
    loop.config = SimpleNamespace(**{k: changes.pop(k, v) for k, v in words.items()})
    phases = changes.pop("phases", [Phase()])
    tables = SimpleNamespace(schedule=Schedule(phases=phases))
    loop.session = SimpleNamespace(recipe=SimpleNamespace(tables=tables))
    loop.run_dir, loop.display, loop.graph = RunDirectory(tmp_path / "run"), Shown(), Graph()
    loop.device, loop.ranks, loop.total = CPU, DistributedContext(), 6
    loop.callbacks = Kept()
    loop.meter, loop._skipped_in_a_row, loop.captured = MetricAccumulator(2), 0, None
    loop._saved = []
    for name, value in changes.items():
        setattr(loop, name, value)
    source: Any = StepSource.__new__(StepSource)
    loop.session.graph, loop.session.device = loop.graph, loop.device
    source.session, source.config, source.total = loop.session, loop.config, loop.total
    source.ranks, source.batches, source.unlabelled = loop.ranks, Batches(), None
    loop.source = source
    loop.guard = changes.get("guard") or nonfinite.NonFiniteGuard(CPU, DistributedContext())
    return loop


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


# -- what a loop is made of ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Session:
    about: dict[str, Any] = {"plugin": "phantom", "images": 240, "image_size": 32}
    about["classes"] = ["Edema", "Mass"]
    about |= {"limit": 9, "unlabelled": True}
    recipe = gan(data=about, run={"seed": 5, "steps": None, "epochs": 2})
    return Session.of(recipe, Display(Console(quiet=True)))


def test_a_loop_draws_batches_of_both_kinds(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[tuple, dict]] = []

    def batches(*given: Any, **more: Any) -> Any:
        asked.append((given, more))
        return SimpleNamespace()

    monkeypatch.setattr("xraygan.training.step_source.Batches", batches)
    place, shown = RunDirectory(tmp_path), Display(Console(quiet=True))
    loop = Trainer(session, place, shown)
    tables, data = session.recipe.tables, session.data
    assert asked == [
        (
            (data.splits[name], tables.data),
            {
                "exclusive": True,
                "batch_size": 8,
                "seed": 5,
                "device": session.device,
                "stream": stream,
                "more": None,
                "periods": [],
            },
        )
        for name, stream in (("train", ""), ("unlabelled", "unlabelled "))
    ]
    assert (loop.session, loop.run_dir, loop.display) == (session, place, shown)
    assert (loop.graph, loop.device, loop.config) == (session.graph, session.device, tables.run)
    assert loop.source.batches is not loop.source.unlabelled is not None
    assert loop.ranks == DistributedContext() and isinstance(loop.callbacks, Callbacks)
    assert (loop.callbacks.session, loop.callbacks.run_dir, loop.callbacks.total) == (
        session,
        place,
        4,
    )
    assert loop.total == 4 and loop.guard.ranks is loop.ranks and loop.meter.batch_size == 8
    assert loop.guard.found_inf.device == session.device and loop._skipped_in_a_row == 0
    second = Trainer(session, place, shown, Ours(1, 2))
    assert second.ranks == Ours(1, 2) and second.callbacks is None
    assert second.guard.ranks is second.ranks
    tables.data.unlabelled = False
    assert Trainer(session, place, shown).source.unlabelled is None


def test_networks_are_compiled_but_what_draws_numbers_is_not(tmp_path: Path) -> None:
    class Network:
        def __init__(self) -> None:
            self.modes: list[str] = []

        def compile(self) -> None:
            self.modes.append("compiled")

    class Draws(Augmenter):
        def forward(self, images: Tensor, step: Any) -> Tensor:
            return images

        def compile(self, *_: Any, **__: Any) -> None:
            raise AssertionError

    for given, mode in (("default", ["compiled"]), ("graphs", []), ("off", [])):
        loop, network, extractor = loop_with(tmp_path, compile=given), Network(), Network()
        loop.graph.networks = {"generator": network, "augmenter": Draws()}
        loop.graph.extractors = {"vgg": extractor}
        loop._compile()
        assert network.modes == extractor.modes == mode


# -- a step ----------------------------------------------------------------------------------------


def test_a_step_is_of_its_part_of_the_batch(tmp_path: Path) -> None:
    phases = [Phase(ratio="1:2", until=0.5), Phase(ratio="2:1", waits=["classifier"])]
    loop = loop_with(tmp_path, phases=phases, accumulate=3, ranks=Ours(1, 2))
    loop.source.unlabelled = Batches("unlabelled")
    for step, part, learning in (
        (0, 0, {"discriminator", "classifier"}),
        (1, 2, {"generator", "discriminator", "classifier"}),
        (4, 0, {"generator"}),
        (5, 1, {"generator", "discriminator"}),
    ):
        torch.manual_seed(0)
        current = loop.source.build(step, part)
        (real, labels, source), more = loop.graph.steps[-1]
        shard = (2 * part + 1, 6)
        assert (real, labels) == (("train", step, shard), "labels")
        assert (source.device, source.seed) == (CPU, derive_seed(3, "latent", step))
        assert torch.initial_seed() == derive_seed(3, "step", step, 2 * part + 1)
        assert more == {
            "metadata": "metadata",
            "unlabelled": ("unlabelled", step, shard),
            "progress": step / 6,
            "elapsed": None,
            "learning": frozenset(learning),
            "shard": shard,
        }
        assert current.learning == learning


def test_a_whole_batch_is_one_part(tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    loop.source.build(2, 0)
    (real, _, _), more = loop.graph.steps[0]
    assert real == ("train", 2, (0, 1)) and more["unlabelled"] is None
    assert torch.initial_seed() == derive_seed(3, "step", 2)


def test_a_part_records_how_often_the_discriminator_is_right(tmp_path: Path) -> None:
    loop = loop_with(tmp_path, phases=[Phase(ratio="2:1")])
    values, records, gradients = loop._micro_batch_gradients(1, 0)
    assert numbers(values) == {"loss": 1.0, "logged": 10.0}
    assert numbers(records) == {"first": 1.0, "discriminator_accuracy": 0.75}
    assert gradients["generator"][1] is None and float(gradients["generator"][0]) == 2
    _, records, _ = loop._micro_batch_gradients(0, 0)
    assert [*records] == ["first"]
    assert len(loop.graph.noted) == 2
    current, values = loop.graph.noted[-1]
    assert current.records is records and values is current.watch.values


def test_a_step_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    loop = loop_with(tmp_path, accumulate=4, total=8)
    loop.graph.values = [1.0, 2.0, 4.0, 9.0]
    checked = []
    check = loop.guard.update
    loop.guard.update = lambda *given: (checked.append(given), check(*given))[1]
    found = loop.step(2)
    assert numbers(found) == {
        "loss": 4.0, "logged": 40.0, "first": 1.0, "discriminator_accuracy": 0.75,
    }  # fmt: skip
    (gradients, step, held, progress) = loop.graph.updates[0]
    assert (float(gradients["generator"][0]), gradients["generator"][1]) == (8.5, None)
    assert (step, float(held), progress) == (2, 0.0, 0.25)
    ((number, learned, seen),) = checked
    assert number == 2 and numbers(learned) == {"loss": 4.0} and seen is gradients
    assert [more["shard"] for _, more in loop.graph.steps] == [(i, 4) for i in range(4)]
    assert loop.graph.network.running_mean.item() == 4


def test_a_term_that_only_a_later_part_has_counts_as_nothing_before(tmp_path: Path) -> None:
    loop = loop_with(tmp_path, accumulate=2)
    found = iter([{"loss": torch.tensor(1.0)},
                  {"loss": torch.tensor(3.0), "late": torch.tensor(4.0)}])  # fmt: skip
    loop._micro_batch_gradients = lambda *_: (
        next(found),
        {},
        {"generator": [torch.zeros(()), None]},
    )
    assert numbers(loop.step(0)) == {"loss": 2.0, "late": 2.0}


def test_a_step_of_one_part_is_that(tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    loop.graph.values = [3.0]
    loop._skipped_in_a_row = 5
    assert numbers(loop.step(0))["loss"] == 3.0
    assert float(loop.graph.updates[0][0]["generator"][0]) == 6.5
    assert loop._skipped_in_a_row == 0


def test_sums_and_scales_of_gradients() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    found = _sum({"a": [one, None, one, None]}, {"a": [two, two, None, None]})
    assert [None if g is None else float(g) for g in found["a"]] == [3.0, 2.0, 1.0, None]
    scaled = _scaled({"a": [two, None]}, 0.25)
    assert float(scaled["a"][0]) == 0.5 and scaled["a"][1] is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shorter"):
        _sum({"a": [one]}, {"a": []})


@pytest.mark.parametrize("skip", [True, False])
def test_a_step_that_is_not_finite_is_left_out_where_the_recipe_says_so(
    skip: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = loop_with(tmp_path, on_nonfinite="skip" if skip else "stop")
    loop.graph.values = [math.nan]
    found = loop.step(2)
    mean = loop.graph.network.running_mean.item()
    if skip:
        assert (found, mean, loop.graph.updates) == ({}, 0.0, [])
        assert (loop.meter.skipped, loop._skipped_in_a_row) == (1, 1)
        assert caplog.messages == ["step 3 is skipped: 'loss' and 'logged' is not finite"]
        assert caplog.records[0].levelno == logging.WARNING
        assert loop.guard.first() is None and float(loop.guard.found_inf) == 0
        loop.step(3)
        assert loop._skipped_in_a_row == 0 and loop.meter.skipped == 1
    else:
        assert math.isnan(found["loss"]) and mean == 1.0
        assert float(loop.graph.updates[0][2]) == 1.0  # held


def test_leaving_out_ends_when_it_is_of_no_use(tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    for step in range(nonfinite.MAX_SKIPPED - 1):
        loop._skip_step(step, {"loss": torch.tensor(1.0)})
    with pytest.raises(UserError) as caught:
        loop._skip_step(40, {"loss": torch.tensor(1.0)})
    assert str(caught.value).startswith(
        f"{tmp_path / 'run'}: none of the last 20 steps was finite, up to step 41, so skipping more"
    )
    for way in (
        "a lower weight of the terms that the log names; [run]",
        'on_nonfinite = "stop" saves',
    ):
        assert way in str(caught.value)
    assert loop.meter.skipped == 20


def test_a_step_without_a_term_to_blame_has_a_gradient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop_with(tmp_path)._skip_step(6, {"loss": torch.tensor(1.0)})
    assert caplog.messages == ["step 7 is skipped: a gradient is not finite"]


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, False),
        ({"foreign": True}, True),
        ({"ranks": Ours(0, 2)}, True),
        ({"on_nonfinite": "skip"}, True),
    ],
)
@pytest.mark.parametrize("error", [PluginFault("broken"), RankFailed("lost"), ValueError("ours")])
def test_batch_norms_are_put_back_for_a_step_that_will_be_taken_again(
    changes: dict, kept: bool, error: Exception, tmp_path: Path
) -> None:
    foreign = changes.get("foreign", False)
    loop = loop_with(tmp_path, **{k: v for k, v in changes.items() if k != "foreign"})
    loop.graph.has_third_party = foreign
    loop.graph.fault = error
    again = kept and not isinstance(error, ValueError)
    with pytest.raises(type(error), match=str(error)):  # also where nothing is kept to put back
        loop.step(0)
    assert loop.graph.network.running_mean.item() == (0.0 if again else 1.0)
    assert loop.graph.updates == []


def test_batch_norms_are_saved_in_the_same_tensors_before_each_step(tmp_path: Path) -> None:
    loop = loop_with(tmp_path, ranks=Ours(0, 2))
    loop.step(0)
    [first] = loop._saved
    loop.graph.fault = RankFailed("lost")
    with pytest.raises(RankFailed):
        loop.step(1)
    [second] = loop._saved
    assert second is first and second.item() == loop.graph.network.running_mean.item() == 1.0


@pytest.mark.parametrize(
    ("words", "device", "ranks", "reason"),
    [
        ({}, GPU, DistributedContext(), None),
        ({"compile": "off"}, GPU, DistributedContext(), ""),
        ({}, CPU, DistributedContext(), ""),
        ({"accumulate": 2}, GPU, DistributedContext(), "[run] accumulate"),
        ({"on_nonfinite": "skip"}, GPU, DistributedContext(), "[run] on_nonfinite"),
        ({}, GPU, Ours(0, 2), "several ranks"),
    ],
)
def test_steps_are_captured_on_one_gpu_and_the_log_says_why_not(
    words: dict[str, Any], device: Any, ranks: Any, reason: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    loop = loop_with(tmp_path, **({"compile": "graphs"} | words), device=device, ranks=ranks)
    loop.graph.optimizers = {}
    captured = loop._captured_steps()
    assert (captured is not None) == (reason is None)
    assert bool(caplog.text) == bool(reason) and (reason or "") in caplog.text


# -- a run -----------------------------------------------------------------------------------------


def test_a_run_logs_keeps_and_shows(tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    loop.graph.values = [1.0, 2.0, 3.0, 4.0, 5.0, 8.0]
    loop.run()
    kept = [(what, done) for what, done, *_ in loop.callbacks.calls]
    assert kept == [
        ("start", 0), *(("step end", i) for i in (1, 2, 3)),
        ("log", 4), ("step end", 4), ("step end", 5), ("log", 6), ("step end", 6),
    ]  # fmt: skip
    assert all(call[2] is loop.meter for call in loop.callbacks.calls if call[0] == "step end")
    assert loop.display.began == [(6, 0)]
    (four, values, notes), (six, last, _) = loop.display.said
    assert (four, six, notes) == (4, 6, [])
    assert (values["loss"], last["loss"], values["logged"]) == (2.5, 6.5, 25.0)
    assert values["images/s"] > 0 and values["discriminator_accuracy"] == 0.75
    readings = [call[2] for call in loop.callbacks.calls if call[0] == "log"]
    assert [reading.steps for reading in readings] == [4, 2]
    assert readings[0].values["loss"] == 2.5 and "images/s" not in readings[0].values


def test_another_rank_keeps_nothing_and_logs_the_mean(tmp_path: Path) -> None:
    loop = loop_with(tmp_path, callbacks=None, ranks=Ours(1, 3))
    loop.run()
    assert loop.display.said[0][1]["loss"] == 101.0


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_with(tmp_path)
    loop._load_latest = lambda: 4
    loop.run()
    assert loop.display.began == [(6, 4)]
    assert [call[1] for call in loop.callbacks.calls] == [5, 6, 6]
    assert [given[1] for given in loop.graph.updates] == [4, 5]


def test_a_signal_saves_after_the_step(tmp_path: Path) -> None:
    loop = loop_with(tmp_path, log_every=100)
    looks: list[tuple] = []
    loop._check_finite = lambda *given, **more: looks.append((*given, more))
    keep = loop.callbacks.on_step_end

    def signalled(done: int, meter: MetricAccumulator) -> None:
        keep(done, meter)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    loop.callbacks.on_step_end = signalled
    with pytest.raises(Interrupted) as caught:
        loop.run()
    assert caught.value.number == signal.SIGTERM
    assert [(what, done) for what, done, *_ in loop.callbacks.calls] == [
        ("start", 0), ("step end", 1), ("step end", 2), ("save", 2),
    ]  # fmt: skip
    assert loop.callbacks.calls[-1][2] is loop.meter
    assert looks == [(1, {}), (2, {}), (2, {"wait": True})]


def test_another_ranks_signal_ends_this_one(tmp_path: Path) -> None:
    class Told(Ours):
        def largest(self, *values: int) -> list[int]:
            return [signal.SIGINT] if values == (0,) else list(values)

    loop = loop_with(tmp_path, callbacks=None, ranks=Told(1, 3))
    loop._load_latest = lambda: 0
    with pytest.raises(Interrupted) as caught:
        loop.run()
    assert caught.value.number == signal.SIGINT and len(loop.graph.updates) == 1


def test_the_ranks_end_together(tmp_path: Path) -> None:
    waits: list[int] = []

    class Waits(Ours):
        def wait(self) -> None:
            waits.append(len(loop.graph.updates))

    loop = loop_with(tmp_path, ranks=Waits(0, 2))
    loop.run()
    assert waits == [6]


def test_a_fault_of_a_plugin_says_what_is_saved(tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    loop._load_latest, fault, told = (lambda: 2), PluginFault("it broke"), []
    keep = loop.callbacks.on_step_end

    def broken(done: int, meter: MetricAccumulator) -> None:
        keep(done, meter)
        if done == 4:
            loop.graph.fault, loop.graph.has_third_party = fault, True

    def after(*given: Any) -> str:
        told.append(given)
        return ". All is well"

    loop.callbacks.on_step_end, loop._save_after_plugin_fault = broken, after
    with pytest.raises(UserError, match=r"^it broke\. All is well$") as caught:
        loop.run()
    assert not isinstance(caught.value, PluginFault)
    assert caught.value.__cause__ is fault and told == [(fault, 2, 4)]


def test_a_lost_rank_says_what_is_saved(tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    lost, told = RankFailed("a rank is gone"), []
    loop.graph.fault, loop.graph.has_third_party = lost, True
    loop._save_on_failure = lambda done: (told.append(done), "step 0 is saved")[1]
    with pytest.raises(RankFailed, match=r"^a rank is gone\); step 0 is saved$") as caught:
        loop.run()
    assert caught.value.__cause__ is lost and told == [0]


# -- what is shown ---------------------------------------------------------------------------------


def test_notes_say_the_phase_and_the_newest_sample(tmp_path: Path) -> None:
    phases = [Phase(ratio="3:1", until=0.5), Phase(waits=["generator", "classifier"])]
    loop = loop_with(tmp_path, phases=phases)
    assert loop._notes(2) == ["phase 1 of 2 (3:1)"]
    assert loop._notes(3) == ["phase 2 of 2 (1:1, generator and classifier waiting)"]
    loop.callbacks.newest_sample = Path("samples/1.png")
    assert loop._notes(0)[1:] == ["sample samples/1.png"]
    alone = loop_with(tmp_path)
    assert alone._notes(0) == []
    alone.callbacks = None
    assert alone._notes(0) == []


# -- steps that are not finite ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "done", "words", "surely", "looks"),
    [
        (CPU, 1, {}, False, True),
        (GPU, 1, {"log_every": 2}, False, False),
        (GPU, 2, {"log_every": 2}, False, True),
        (GPU, 1, {"log_every": 2, "save_every": 1}, False, True),
        (GPU, 1, {"log_every": 2, "sample_every": 1}, False, True),
        (GPU, 1, {"log_every": 2, "evaluate_every": 1}, False, True),
        (GPU, 3, {"log_every": 2, "evaluate_every": 3}, False, True),
        (GPU, 1, {"log_every": 2}, True, True),
        (GPU, 6, {"log_every": 4}, False, True),
    ],
)
def test_a_gpu_is_waited_for_only_before_something_is_kept(
    device: Any, done: int, words: dict, surely: bool, looks: bool, tmp_path: Path
) -> None:
    asked: list[int] = []
    guard = SimpleNamespace(first=lambda: asked.append(1))
    loop = loop_with(tmp_path, guard=guard, device=device, **words)
    waits = {"wait": True} if surely else {}
    loop._check_finite(done, **waits)
    assert bool(asked) is looks
    if looks:
        loop.guard = SimpleNamespace(first=lambda: 0)  # the first step may be it
        stopped: list[int] = []
        loop._stop = stopped.append
        loop._check_finite(done, **waits)
        assert stopped == [0]


@pytest.fixture
def diagnosed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a diagnosis says of each part in turn, and the evidence that was written."""
    found: dict[str, Any] = {"gists": [""], "asked": [], "written": [], "latest": None}

    def diagnose(graph: Any, current: Any) -> dict:
        found["asked"].append((graph, current))
        return {"gist": found["gists"].pop(0)}

    monkeypatch.setattr(nonfinite, "diagnose", diagnose)
    monkeypatch.setattr(nonfinite, "describe_diagnosis", lambda diagnosis: diagnosis["gist"])
    monkeypatch.setattr(nonfinite, "write_evidence", lambda *given: found["written"].append(given))

    def latest(folder: Path) -> Any:
        assert folder.name == "checkpoints"
        return found["latest"]

    monkeypatch.setattr(checkpoint, "latest", latest)
    return found


def test_a_run_that_stops_says_what_was_not_finite(diagnosed: dict, tmp_path: Path) -> None:
    loop = loop_with(tmp_path, accumulate=3)
    diagnosed["gists"] = ["", "the term 'loss' is nan", "never asked"]
    with pytest.raises(UserError) as caught:
        loop._stop(6)
    place = tmp_path / "run"
    folder = place / "nonfinite" / "step-00000007"
    assert str(caught.value) == (
        f"{place}: step 7: the term 'loss' is nan. No network was changed by it; none was saved yet"
        f". {folder} has the batch and the networks. A lower learning rate, or a lower weight of "
        'that term, may help; [run] on_nonfinite = "skip" skips such steps'
    )
    assert [more["shard"][0] for _, more in loop.graph.steps] == [0, 1]
    ((where, graph, current, diagnosis),) = diagnosed["written"]
    assert (where, graph, diagnosis) == (folder, loop.graph, {"gist": "the term 'loss' is nan"})
    assert current is diagnosed["asked"][1][1] and diagnosed["asked"][0][0] is loop.graph


def test_a_step_that_is_finite_the_second_time_is_told_from_the_first(
    diagnosed: dict, tmp_path: Path
) -> None:
    diagnosed["latest"] = SimpleNamespace(step=4)
    loop = loop_with(tmp_path, ranks=Ours(1, 2))
    seen = {"loss": math.nan, "logged": math.inf}
    loop.guard = SimpleNamespace(terms=lambda step: {6: seen}[step])
    with pytest.raises(UserError) as caught:
        loop._stop(6)
    said = str(caught.value)
    assert (
        "step 7: the term 'loss' was nan, the term 'logged' was inf (the score 'loss' of other 1.0)"
        ", and is finite when the step is computed again. No network was changed by it; the "
        "checkpoint of step 4 is intact. "
    ) in said
    assert diagnosed["written"] == []  # the first rank does that
    loop.guard = SimpleNamespace(terms=lambda step: {"logged": math.inf})
    assert loop._describe_unrepeated(1) == (
        "the term 'logged' was inf, and is finite when the step is computed again"
    )
    loop.guard = SimpleNamespace(terms=lambda step: {"loss": math.nan, "waits": math.inf})
    assert "(the score 'loss' of other 1.0, the score 'waits' of other 1.0), and is" in (
        loop._describe_unrepeated(1)
    )
    loop.guard = SimpleNamespace(terms=lambda step: {})
    assert loop._describe_unrepeated(1) == "a gradient is too large"


# -- taking up and ending --------------------------------------------------------------------------


class Saved:
    """A checkpoint that notes what it restores."""

    def __init__(self, step: int) -> None:
        self.step, self.loaded = step, []
        log = Gathered(sums={"loss": 3.0}, counts={"loss": 2}, steps=2)
        self.manifest = SimpleNamespace(log=log)

    def load(self, graph: Any) -> None:
        self.loaded.append(graph)


def test_the_newest_checkpoint_is_taken_up(
    diagnosed: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loop, saved = loop_with(tmp_path), Saved(4)
    assert loop._load_latest() == 0 and loop.callbacks.calls == [("start", 0)]
    diagnosed["latest"] = saved
    assert loop._load_latest() == 4
    assert saved.loaded == [loop.graph] and loop.callbacks.calls[1] == ("start", 4)
    assert loop.meter.steps == 2 and loop.meter.counts == {"loss": 2}
    assert caplog.messages == ["at step 0 of 6, on cpu", "at step 4 of 6, on cpu"]
    caplog.clear()
    first = loop_with(tmp_path, ranks=Ours(0, 2))
    assert first._load_latest() == 4
    assert first.meter.steps == 0  # with more, each rank would need its own
    assert caplog.messages == ["at step 4 of 6, on cpu on each of 2 ranks"]
    caplog.clear()
    other = loop_with(tmp_path, ranks=Ours(1, 3), callbacks=None)
    assert other._load_latest() == 4 and not caplog.messages


@pytest.mark.parametrize("theirs", [2, 6])
def test_ranks_that_see_other_checkpoints_are_refused(
    theirs: int, diagnosed: dict, tmp_path: Path
) -> None:
    class Differ(Ours):
        def largest(self, *values: int) -> list[int]:
            return [max(values[0], theirs if values[0] > 0 else -theirs)]

    diagnosed["latest"] = saved = Saved(4)
    with pytest.raises(UserError) as caught:
        loop_with(tmp_path, ranks=Differ(0, 2))._load_latest()
    assert str(caught.value).startswith(
        f"{tmp_path / 'run' / 'checkpoints'}: the ranks do not see the same checkpoints; the run di"
    )
    assert saved.loaded == []


def test_after_a_lost_rank_what_is_whole_is_saved(diagnosed: dict, tmp_path: Path) -> None:
    loop = loop_with(tmp_path)
    assert loop._save_on_failure(3) == "no checkpoint had been written"
    assert loop.callbacks.calls == [("save", 3, loop.meter)]
    diagnosed["latest"] = SimpleNamespace(step=3)
    assert loop._save_on_failure(3) == "step 3 is saved: continue it with --resume"
    stood: list[int] = []
    other = loop_with(tmp_path, callbacks=None)
    other._save_for_first_rank = stood.append
    assert other._save_on_failure(5) == "step 3 is saved: continue it with --resume" and stood == [
        5
    ]
    on_gpu = loop_with(tmp_path, device=GPU)
    on_gpu._save_on_failure(3)
    assert on_gpu.callbacks.calls == []


def test_after_a_fault_what_is_whole_is_saved(diagnosed: dict, tmp_path: Path) -> None:
    looks: list[tuple] = []

    def after(fault: PluginFault, start: int, done: int, **changes: Any) -> tuple[str, list]:
        loop = loop_with(tmp_path, **changes)
        loop._check_finite = lambda *given, **more: looks.append((*given, more))
        said = loop._save_after_plugin_fault(fault, start, done)
        return said, loop.callbacks.calls if loop.callbacks else []

    whole, spoilt = PluginFault("x"), PluginFault("y")
    spoilt.spoilt = True
    nothing = ". Nothing was trained yet: fix the plugin and start again with --resume"
    assert after(whole, 0, 0) == (nothing, [])
    assert looks == [(0, {"wait": True})]
    said, calls = after(whole, 0, 2)
    assert said == nothing and [call[:2] for call in calls] == [("save", 2)]
    assert isinstance(calls[0][2], MetricAccumulator)
    diagnosed["latest"] = SimpleNamespace(step=2)
    saved = ". The run is saved at step 2: continue it with --resume"
    assert after(whole, 2, 2) == (saved, [])
    assert after(spoilt, 0, 2) == (saved, [])
    assert after(whole, 0, 2, callbacks=None) == (saved, [])


@pytest.mark.parametrize(("there", "saves"), [(None, True), (3, True), (5, False), (6, False)])
def test_a_rank_stands_in_for_the_first_if_that_has_ended(
    there: int | None, saves: bool, diagnosed: dict, tmp_path: Path, monkeypatch: Any
) -> None:
    written: list[tuple] = []
    monkeypatch.setattr(checkpoint, "save", lambda *given: written.append(given))
    diagnosed["latest"] = there and SimpleNamespace(step=there)
    loop = loop_with(tmp_path, keep=7)
    loop._save_for_first_rank(5)
    expected = [(loop.run_dir.checkpoints, 5, loop.graph, 7)]
    assert written == (expected if saves else [])
    written.clear()
    with loop.run_dir.locked():
        loop._save_for_first_rank(5)  # it lives
    assert written == []
