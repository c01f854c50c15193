"""Checkpoints and run directories that are wrong: see test_malformed.py."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from malformed import contents, refused
from rich.console import Console
from safetensors.torch import load_file, save_file

from xraygan.recipe.loading import load
from xraygan.training.engine import run
from xraygan.utils.progress import Display

pytestmark = pytest.mark.usefixtures("in_a_folder")


def manifest(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the newest checkpoint's manifest."""
    path = folder / "checkpoints/step-00000002/manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def text(folder: Path, content: str | bytes) -> None:
    path = folder / "checkpoints/step-00000002/manifest.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def tensors(folder: Path, content: bytes | None = None, **changes: torch.Tensor | None) -> None:
    """Change the newest checkpoint's generator, and its hash with it: a forged one."""
    path = folder / "checkpoints/step-00000002/generator.safetensors"
    if content is None:
        found: dict[str, torch.Tensor | None] = {**load_file(path), **changes}
        save_file({k: v for k, v in found.items() if v is not None}, path)
    else:
        path.write_bytes(content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest(folder, lambda m: m["files"].update({path.name: digest}))


def flip(folder: Path, at: int) -> None:
    path = folder / "checkpoints/step-00000002/generator.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGED = ("step-00000002", "damaged", "--checkpoint 1")
FORGED = ("step-00000002", "generator")

CHECKPOINTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a flipped bit": (lambda run: flip(run, -1), DAMAGED),
    "a flipped header": (lambda run: flip(run, 20), DAMAGED),
    "no manifest": (lambda run: next(run.glob("checkpoints/*02/manifest.json")).unlink(), DAMAGED),
    "an empty manifest": (lambda run: text(run, ""), DAMAGED),
    "half a manifest": (lambda run: text(run, '{"format": 1, "st'), DAMAGED),
    "a manifest of zeros": (lambda run: text(run, b"\0" * 50), DAMAGED),
    "a manifest that is a list": (lambda run: text(run, "[]"), DAMAGED),
    "a manifest in latin-1": (lambda run: text(run, b'{"format": "\xe4"}'), DAMAGED),
    "a deep manifest": (lambda run: text(run, "[" * 100_000), DAMAGED),
    "a huge manifest": (lambda run: text(run, " " * 2**21), DAMAGED),
    "another format": (lambda run: manifest(run, lambda m: m.update(format=2)), DAMAGED),
    "a format in words": (lambda run: manifest(run, lambda m: m.update(format="1")), DAMAGED),
    "another step": (lambda run: manifest(run, lambda m: m.update(step=7)), DAMAGED),
    "a negative step": (lambda run: manifest(run, lambda m: m.update(step=-2)), DAMAGED),
    "a step in words": (lambda run: manifest(run, lambda m: m.update(step="2")), DAMAGED),
    "a step that is true": (lambda run: manifest(run, lambda m: m.update(step=True)), DAMAGED),
    "no step": (lambda run: manifest(run, lambda m: m.pop("step")), DAMAGED),
    "no files": (lambda run: manifest(run, lambda m: m.pop("files")), DAMAGED),
    "files as a list": (lambda run: manifest(run, lambda m: m.update(files=[])), DAMAGED),
    "an unknown key": (lambda run: manifest(run, lambda m: m.update(code="import os")), DAMAGED),
    "a log of words": (lambda run: manifest(run, lambda m: m.update(log={"sums": 3})), DAMAGED),
    "a hash of nothing": (
        lambda run: manifest(run, lambda m: m["files"].update({"generator.safetensors": ""})),
        DAMAGED,
    ),
    "a file that is not there": (
        lambda run: manifest(run, lambda m: m["files"].update({"none.safetensors": "0"})), DAMAGED,
    ),
    "a file elsewhere": (
        lambda run: manifest(run, lambda m: m["files"].update({"../../recipe.toml": "0"})), DAMAGED,
    ),
    "a file at the root": (
        lambda run: manifest(run, lambda m: m["files"].update({"/etc/passwd": "0"})), DAMAGED,
    ),
    "a folder as a file": (
        lambda run: (
            (run / "checkpoints/step-00000002/generator.safetensors").unlink(),
            (run / "checkpoints/step-00000002/generator.safetensors").mkdir(),
        ),
        DAMAGED,
    ),
    "a network without a file": (
        lambda run: manifest(run, lambda m: m["files"].pop("generator.safetensors")), FORGED,
    ),
    "a pickle": (lambda run: tensors(run, b"\x80\x04cos\nsystem\n(S'true'\ntR."), FORGED),
    "an empty file": (lambda run: tensors(run, b""), FORGED),
    "a header beyond the file": (
        lambda run: tensors(run, struct.pack("<Q", 2**40) + b"{}"), FORGED,
    ),
    "a header that is no JSON": (lambda run: tensors(run, struct.pack("<Q", 4) + b"oops"), FORGED),
    "offsets beyond the file": (
        lambda run: tensors(
            run,
            (lambda h: struct.pack("<Q", len(h)) + h)(
                b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8000000]}}'
            ),
        ),
        FORGED,
    ),
    "a tensor that is missing": (lambda run: tensors(run, **{"layers.0.weight": None}), FORGED),
    "a tensor too many": (lambda run: tensors(run, extra=torch.zeros(2)), FORGED),
    "a tensor of another shape": (
        lambda run: tensors(run, **{"layers.0.weight": torch.zeros(3, 3)}), FORGED,
    ),
    "no checkpoint at all": (
        lambda run: shutil.rmtree(run / "checkpoints"), ("checkpoints", "no checkpoint"),
    ),
    "no whole checkpoint": (
        lambda run: [p.unlink() for p in run.glob("checkpoints/step-*/manifest.json")],
        ("step-00000002", "damaged"),
    ),
    "no recipe": (lambda run: (run / "recipe.toml").unlink(), ("not a run directory",)),
    "half a recipe": (lambda run: (run / "recipe.toml").write_text("[run"), ("recipe.toml",)),
    "another network": (
        lambda run: (run / "recipe.toml").write_text(
            (run / "recipe.toml").read_text().replace("width = 4", "width = 8")
        ),
        ("generator", "does not fit"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["evaluate", "generate"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_malformed_checkpoint(
    name: str, command: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = CHECKPOINTS[name]
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    change(tmp_path / "run")
    before = contents(tmp_path)
    more = ("--count", "1", "--out", "made") if command == "generate" else ()
    said = refused(capsys, command, "run", *more)
    for word in words:
        assert word in said, said
    assert contents(tmp_path) == before
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("which", ["0", "-1", "99999999999", "../step-00000001", "lates", "", "/"])
def test_a_checkpoint_that_is_none(
    which: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "evaluate", str(finished), "--checkpoint", which)
    assert "there is no checkpoint" in said and "1" in said


def test_a_damaged_checkpoint_is_not_resumed_from(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming goes on from the one before, and says so."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    flip(tmp_path / "run", -1)
    (tmp_path / "run" / "evaluation.json").unlink()
    run(
        load(tmp_path / "run" / "recipe.toml"),
        tmp_path / "run",
        resume=True,
        display=Display(Console(stderr=True)),
    )
    assert "damaged" in capsys.readouterr().err
    ours, whole = (
        json.loads((folder / "checkpoints/step-00000002/manifest.json").read_text())["files"]
        for folder in (tmp_path / "run", finished)
    )
    assert ours == whole
