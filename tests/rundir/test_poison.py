"""Run directories whose files are not what a run writes: every command that reads them.

A command that needs the file stops with exit code 2 and one message that names it, the line or key,
what was expected and what to do, and changes no file. A page is written without it, and names it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import made_run
import pytest
import torch
from malformed import contents
from safetensors.torch import load_file, save_file
from saved_run import CLASSIFIER, gan, saved, xraygan

AUDIT = {
    "step": 1,
    "says": "NO COPYING WAS FOUND",
    "verdict": "none",
    "protocol": {"generated": 8, "training_images": 20, "held_out_images": 8},
}
LINES = '{"step": 1, "progress": 0.5, "terms": {"a": 1.0}}\n{"step": 1, "terms": {"a": 0.5}}\n'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has every file that a command reads."""
    place = saved(tmp_path_factory.mktemp("poison") / "one", gan("cgan"), CLASSIFIER)
    made = made_run.make(place.parent / "made")
    for name in ("predictions.csv", "bootstrap.csv", "samples"):
        (made / name).rename(place / name)
    (place / "metrics.jsonl").write_text(LINES)
    (place / "audit.json").write_text(json.dumps(AUDIT))
    return place


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "run")
    return Path("run")


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """A command that waits for a pipe would wait for ever."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -- what is no such file --------------------------------------------------------------------------


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def listen(path: Path) -> None:
    # The path of a socket may have 107 bytes, and that of a test's folder has more.
    here = os.open(path.parent, os.O_RDONLY)
    before = Path.cwd()
    os.chdir(here)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)
        os.close(here)


#: name -> what stands in the place of the file, and what the message says
STAND_INS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a deep one": (lambda path: path.write_text('{"a": ' + "[" * 100_000), "nested too deeply"),
    "utf-16": (lambda path: path.write_bytes(codecs.BOM_UTF16_LE + b"{\0}\0"), "UTF-16"),
    "a huge one": (sparse, "larger than"),
    "a folder": (Path.mkdir, "not a regular file"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "a link to nowhere"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a socket": (listen, "not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "no permission": (
        lambda path: (path.write_text("{}"), path.chmod(0)), "Permission denied",
    ),
}  # fmt: skip

#: a file -> a command that needs it
NEED: dict[str, tuple[str, ...]] = {
    "environment.json": ("generate", "run", "--count", "1", "--out", "made"),
    "evaluation.json": ("export", "run", "--format", "safetensors", "--out", "made"),
    "metrics.jsonl": ("run", "run/recipe.toml", "--out", "run", "--resume", "--steps", "2"),
    "audit.json": ("export", "run", "--format", "safetensors", "--out", "made"),
}


@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("name", NEED)
def test_a_file_that_is_none(
    name: str, stand_in: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put, words = STAND_INS[stand_in]
    if stand_in == "no permission" and os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    if (name, stand_in) == ("metrics.jsonl", "a deep one"):
        words = "line 1: "  # as of the last line of a run that was killed, nothing is said of it
        (run / name).write_text('{"a": ' + "[" * 100_000 + "\n" + LINES)
    else:
        (run / name).unlink()
        put(run / name)
    before = contents(Path())
    with no_longer_than(60):
        said = xraygan(capsys, *NEED[name], code=2)
    assert words in said and f"run/{name}" in said, said
    assert "; " in said.split(name, 1)[1], said  # what to do
    assert contents(Path()) == before and not Path("made").exists()


SHOWN = [*(name for name in NEED if name != "audit.json"), "recipe.toml", "predictions.csv"]
SHOWN += ["samples/real.png", "samples/step-00001500.png", "samples/real.csv", "run.log"]


@pytest.mark.parametrize("stand_in", ["a folder", "a pipe"])
@pytest.mark.parametrize("name", SHOWN)
def test_a_page_is_written_without_it(
    name: str, stand_in: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).unlink(missing_ok=True)
    STAND_INS[stand_in][0](run / name)
    with no_longer_than(60):
        said = xraygan(capsys, "report", "run", code=2)
    assert f"run/{name} (cannot be read: {STAND_INS[stand_in][1]}" in said
    assert name in (run / "report.html").read_text()


def test_figures_and_comparisons_do_without_a_pipe(
    run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("samples/step-00001500.png", "evaluation.json", "bootstrap.csv"):
        (run / name).unlink()
        os.mkfifo(run / name)
    with no_longer_than(120):
        xraygan(capsys, "figures", "run")
        said = xraygan(capsys, "report", run, whole, code=2)
    assert "run/samples/step-00001500.png" in said and "run/evaluation.json" in said


def test_a_log_that_is_a_pipe_is_not_waited_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "run.log").unlink(missing_ok=True)
    os.mkfifo(run / "run.log")
    with no_longer_than(60):
        said = xraygan(capsys, *NEED["metrics.jsonl"], code=2)
    assert "run/run.log: not a regular file; move it away" in said


# -- what is no such number ------------------------------------------------------------------------

#: file, the key that is changed, what stands there as JSON, and what the message says
VALUES: list[tuple[str, tuple[str, ...], str, str]] = [
    ("evaluation.json", ("step",), "true", "step: expected a valid integer, found True"),
    ("evaluation.json", ("step",), "-1", "step: "),
    ("evaluation.json", ("step",), "1" + "0" * 400, "is out of range"),
    ("evaluation.json", ("metrics",), "[]", "metrics: "),
    ("evaluation.json", ("protocol",), "null", "protocol: "),
    ("evaluation.json", ("protocol", "images"), '"8"', "protocol.images: "),
    ("evaluation.json", ("protocol", "confidence"), "NaN", "protocol.confidence: "),
    ("evaluation.json", ("protocol", "confidence"), "1e400", "protocol.confidence: "),
    ("environment.json", ("dataset",), "[]", "dataset: "),
    ("environment.json", ("dataset", "images", "train"), "-1", "dataset.images.train: "),
    ("environment.json", ("dataset", "images", "train"), "true", "dataset.images.train: "),
    ("environment.json", ("dataset", "classes", "train"), "null", "dataset.classes.train: "),
    ("environment.json", ("command",), '"xraygan"', "command: "),
    ("audit.json", ("step",), "1.5", "step: "),
    ("audit.json", ("says",), "null", "says: "),
    ("audit.json", ("verdict",), "[]", "verdict: "),
    ("audit.json", ("protocol", "generated"), "Infinity", "protocol.generated: "),
    ("audit.json", ("protocol", "training_images"), '"many"', "protocol.training_images: "),
]


@pytest.mark.parametrize(("name", "keys", "value", "words"), VALUES)
def test_a_value_that_is_none(
    name: str,
    keys: tuple[str, ...],
    value: str,
    words: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = json.loads((run / name).read_text())
    at = tree
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = "HERE"
    (run / name).write_text(json.dumps(tree).replace('"HERE"', value))
    before = contents(Path())
    said = xraygan(capsys, *NEED[name], code=2)
    assert f"run/{name}: " in said and words in said, said
    assert contents(Path()) == before


@pytest.mark.parametrize("key", ["step", "says", "verdict", "protocol"])
def test_a_key_that_is_missing_or_there_twice(
    key: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {name: value for name, value in AUDIT.items() if name != key}
    (run / "audit.json").write_text(json.dumps(tree))
    assert f"audit.json: {key}: Field required" in xraygan(capsys, *NEED["audit.json"], code=2)
    text = json.dumps(AUDIT).replace("{", f'{{"{key}": 0, ', 1)
    (run / "audit.json").write_text(text)
    said = xraygan(capsys, *NEED["audit.json"], code=2)
    assert f"the key {key!r} occurs twice" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"step": "1"}', "step: "),
        ('{"step": true}', "step: "),
        ('{"step": -1}', "step: "),
        ('{"step": 1e400}', "step: "),
        ('{"step": 1' + "0" * 400 + "}", "out of range"),
        ('{"terms": {}}', "step: Field required"),
        ('{"step": 1, "step": 1}', "twice"),
        ('{"step": 1, "progress": 2}', "progress: "),
        ('{"step": 1, "progress": NaN}', "progress: "),
        ('{"step": 1, "seconds": Infinity}', "seconds: "),
        ('{"step": 1, "terms": {"a": "x"}}', "terms.a: "),
        ('{"step": 1, "terms": {"a": true}}', "terms.a: "),
        ('{"step": 1, "terms": []}', "terms: "),
        ('{"step": 1, "images_per_second": -1}', "images_per_second: "),
        ("[]", "dictionary"),
        ("", "Expecting value"),
    ],
)
def test_a_line_of_the_log(
    line: str, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "metrics.jsonl").write_text(f"{line}\n{LINES}")
    before = contents(Path())
    said = xraygan(capsys, *NEED["metrics.jsonl"], code=2)
    assert "run/metrics.jsonl: line 1: " in said and words in said, said
    assert contents(Path()) == before
    said = xraygan(capsys, "report", "run", code=2)
    assert "metrics.jsonl (1 line cannot be read; line 1: " in said and words in said, said


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("nine", "expected a number from 0 to 1, found 'nine'"),
        ("-0.5", "expected a number from 0 to 1"),
        ("1e400", "expected a number from 0 to 1"),
        ("inf", "expected a number from 0 to 1"),
        ("1" + "0" * 400, "expected a number from 0 to 1"),
        ("0.5,0.5", "found 11"),
        ('"0.5', "line 7"),
    ],
)
def test_a_cell_of_the_predictions(
    cell: str, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "predictions.csv"
    lines = path.read_text().splitlines()
    lines[2] = f"{lines[2].rpartition(',')[0]},{cell}"
    path.write_text("\n".join(lines) + "\n")
    said = xraygan(capsys, "report", "run", code=2)
    assert "predictions.csv" in said and words in said, said
    assert ("line 3" in said) != (cell == '"0.5'), said


def test_a_byte_order_mark_and_odd_zeros_are_read(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("evaluation.json", "environment.json", "recipe.toml", "predictions.csv"):
        (run / name).write_bytes(codecs.BOM_UTF8 + (run / name).read_bytes())
    line = '{"step": 1, "terms": {"a": -0, "b": NaN, "c": 5e-324, "d": null}, "progress": 1e-9}\n'
    (run / "metrics.jsonl").write_text(line + LINES)
    xraygan(capsys, "report", "run")


# -- checkpoints -----------------------------------------------------------------------------------

STEP = "checkpoints/step-00000001"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": True}, "step: "),
        ({"log": {"sums": {"a": 1.0}, "counts": {}}}, "sums and counts"),
        ({"log": {"sums": {"a": 1.0}, "counts": {"a": 0}}}, "log.counts.a: "),
        ({"log": {"steps": -1}}, "log.steps: "),
        (
            {"files": {"generator.safetensors": "0"}},
            "generator.safetensors does not match its sha256",
        ),
        ({"files": {"none.safetensors": "0"}}, "none.safetensors is missing"),
    ],
)
def test_a_manifest(
    change: dict[str, object], words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / STEP / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    said = xraygan(capsys, *NEED["environment.json"], code=2)
    assert f"run/{STEP}: damaged (" in said and words in said, said


@pytest.mark.parametrize("stand_in", ["a deep one", "utf-16", "a huge one", "a folder", "a pipe"])
def test_a_manifest_that_is_none(
    stand_in: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put, words = STAND_INS[stand_in]
    (run / STEP / "manifest.json").unlink()
    put(run / STEP / "manifest.json")
    with no_longer_than(60):
        said = xraygan(capsys, *NEED["environment.json"], code=2)
    assert f"run/{STEP}: damaged (manifest.json: " in said and words in said, said


NETWORKS = {
    "generate": ("generate", "run", "--count", "1", "--out", "made"),
    "evaluate": ("evaluate", "run"),
    "audit": ("audit", "run", "--generated", "4"),
    "explain": ("explain", "run", "--images", "1"),
    "export": ("export", "run", "--format", "safetensors", "--out", "made"),
    "resume": ("run", "run/recipe.toml", "--out", "run", "--resume", "--steps", "2"),
    "start": ("run", "run/recipe.toml", "--out", "made", "--from", "run"),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("command", NETWORKS)
def test_weights_that_are_no_numbers(
    command: str, value: float, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / STEP / "generator.safetensors"
    tensors = load_file(path)
    key = next(name for name, t in tensors.items() if name.endswith("weight") and t.ndim > 1)
    tensors[key] = torch.full_like(tensors[key], value)
    save_file(tensors, path)
    manifest = run / STEP / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    before = contents(Path())
    said = xraygan(capsys, *NETWORKS[command], code=2)
    assert STEP in said and f"{key} of the generator" in said and "not numbers" in said, said
    assert contents(Path()) == before
