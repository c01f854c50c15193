"""What is seen of a run while it trains: the display, trackers, and silence."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import SMALL
from forked import xraygan
from rich.console import Console
from saved_run import gan, saved

from xraygan import Tracker
from xraygan.recipe.loading import load
from xraygan.training.engine import run
from xraygan.training.trackers import Trackers
from xraygan.utils.progress import Display

GIVEN = (
    *SMALL,
    "classifier.weights=random",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]',
    "run.steps=4",
    "run.sample_every=2",
    "run.evaluate_every=2",
    'schedule.phases=[{until=0.5, waits=["classifier"]}, {ratio="2:1"}]',
    'labeler={weight=0.5, trains=["classifier"]}',
    "trackers.csv={}",
)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tracked") / "run"
    silent = Display(quiet=True)
    recipe = load("ucgan_full", [*GIVEN, "trackers.tensorboard={}"])
    run(recipe, out, display=silent)
    return out


def logged(out: Path) -> dict[int, dict[str, float]]:
    """What ``metrics.jsonl`` says: step -> term -> value."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["terms"] for line in lines if "terms" in line}


def test_the_table_has_what_the_log_has_and_columns_that_begin_late(tracked: Path) -> None:
    table = pd.read_csv(tracked / "metrics.csv")
    rows = table[table["generator"].notna()].set_index("step")
    assert list(rows.index) == [1, 2, 3, 4]
    for step, terms in logged(tracked).items():
        for name, value in terms.items():
            assert rows.loc[step, name] == pytest.approx(value)
    assert rows["classification"].isna().tolist() == [True, True, False, False]
    measured = table[table["evaluation/accuracy"].notna()]
    assert measured["step"].tolist() == [2]


def test_a_resumed_table_forgets_what_came_after_the_checkpoint(
    tracked: Path, tmp_path: Path
) -> None:
    from xraygan_trackers.table import CSV

    (tmp_path / "metrics.csv").write_text((tracked / "metrics.csv").read_text())
    table = CSV(tmp_path)
    table.begin(2)
    table.log(3, {"generator": 7.0})
    found = pd.read_csv(tmp_path / "metrics.csv")
    assert found["step"].tolist() == [1, 2, 2, 3]
    assert found["generator"].iloc[-1] == 7.0
    table = CSV(tmp_path)
    table.begin(0)
    assert pd.read_csv(tmp_path / "metrics.csv").empty


def test_tensorboard_has_curves_samples_and_the_recipe_beside_the_results(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(tracked / "tensorboard"))
    events.Reload()
    for step, terms in logged(tracked).items():
        found = {e.step: e.value for e in events.Scalars("generator")}
        assert found[step] == pytest.approx(terms["generator"], rel=1e-6)
    assert [e.step for e in events.Images("samples")] == [2, 4]
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info
    assert start.hparams["scores.gram.weight"].number_value == pytest.approx(
        load("ucgan_full", GIVEN).choices["scores.gram"].config.weight
    )
    final = json.loads((tracked / "evaluation.json").read_text())["metrics"]["accuracy"]["value"]
    assert events.Scalars("accuracy")[-1].value == pytest.approx(final, rel=1e-6)


def test_tensorboard_forgets_what_came_after_the_checkpoint_and_no_more(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from xraygan_trackers.board import TensorBoard

    place = saved(tmp_path / "made", gan("dcgan"))  # of one step, and evaluated
    for begin, steps, value in ((0, (1, 2, 3), 1.0), (2, (3,), 2.0)):
        board = TensorBoard(place)
        board.begin(begin)
        for step in steps:
            board.log(step, {"x": value})
        board._writer.close()
        time.sleep(1.1)  # files are read in the order of the seconds in their names
    events = EventAccumulator(str(place / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("x")] == [(1, 1.0), (2, 1.0), (3, 2.0)]


@pytest.mark.parametrize("steps", [1, 2])
def test_tensorboard_has_results_of_a_run_that_is_trained_to_its_end(
    steps: int, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from xraygan_trackers.board import TensorBoard

    place = saved(tmp_path / "made", gan("dcgan"))
    recipe = place / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("\nsteps = 1\n", f"\nsteps = {steps}\n"))
    (place / "samples/step-00000001.png").touch()
    board = TensorBoard(place)
    board.begin(1)
    board.close()
    events = EventAccumulator(str(place / "tensorboard"))
    events.Reload()
    assert ("_hparams_/session_start_info" in events.summary_metadata) == (steps == 1)


class Failing(Tracker):
    """A tracker whose server goes away."""

    def __init__(self, directory: Path) -> None:
        self.calls: list[Any] = []

    def begin(self, step: int) -> None:
        self.calls.append(step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(step)
        raise ConnectionError("the server went away")


def test_a_tracker_that_fails_is_named_once_and_in_nobodys_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, table = Failing(tmp_path), Failing(tmp_path)
    table.log = lambda step, values: table.calls.append((step, dict(values)))  # type: ignore[method-assign]
    trackers = Trackers({"away": failing, "good": table})
    trackers.begin(0)
    for step in (1, 2):
        trackers.log(step, {"x": 1.0})
    trackers.close()
    assert failing.calls == [0, 1]
    assert table.calls == [0, (1, {"x": 1.0}), (2, {"x": 1.0})]
    [record] = caplog.records
    assert "[trackers.away] is no longer used" in record.message
    assert "the server went away" in record.message


# -- the display -----------------------------------------------------------------------------------


def shown(terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, soft_wrap=not terminal)
    with Display(console).training(4) as update:
        for done in (1, 2, 4):
            update(done, {"generator": 0.5 * done}, ["phase 1 of 2 (1:1)", f"sample {done // 2}"])
    return out.getvalue()


def test_a_terminal_shows_the_numbers_the_phase_and_the_newest_sample() -> None:
    text = shown(terminal=True)
    assert "4/4" in text and "generator 2" in text
    assert "phase 1 of 2 (1:1)" in text and "sample 2" in text


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xraygan.utils.progress.LINE_SECONDS", 0)
    first, second, last = shown(terminal=False).splitlines()
    assert first.startswith("training 1/4") and "phase 1 of 2 (1:1)  sample 0" in first
    assert "phase" not in second and "sample 1" in second
    assert last.startswith("training 4/4  0:00 left  generator 2")
    assert "\x1b" not in first + second + last


def test_quiet_leaves_the_result_alone(tracked: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = ["data.plugin=phantom", "data.images=80", "data.image_size=32", "run.batch_size=4"]
    small += ["data.only=[]", "classifier.plugin=resnet18", "classifier.weights=random"]
    small += ["evaluation.bootstrap=20", "run.steps=1"]
    sets = [word for text in small for word in ("--set", text)]
    done = xraygan("run", "baseline_resnet50", *sets, "--out", out, "--quiet")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{out}/report.html"
    assert "accuracy" in done.stdout and "training" not in done.stdout
    made = xraygan("generate", tracked, "--count", "4", "--out", tmp_path / "made", "-q")
    assert (made.stdout, made.stderr) == (f"4 images in {tmp_path / 'made'}\n", "")
    wrong = xraygan("evaluate", tmp_path, "--quiet", code=2)
    assert wrong.stderr.startswith("xraygan: ")
