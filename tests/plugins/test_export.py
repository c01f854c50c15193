"""Exported networks give the outputs of the run's, in every format; the card's code loads them."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from saved_run import CLASSIFIER, gan, saved, xraygan
from torch import Tensor

from xraygan.cli import cli
from xraygan.session.session import restore_session
from xraygan.utils.progress import Display

NETWORKS = ("generator", "classifier")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classifier = f"{CLASSIFIER}metadata = true\n"
    return saved(tmp_path_factory.mktemp("e"), gan("cgan", average=0.5), classifier)


@pytest.fixture(scope="module")
def graph(place: Path) -> Any:
    return restore_session(place, (), Display(quiet=True))[0].graph


@pytest.fixture(scope="module")
def out(place: Path) -> Path:
    """Everything of it, exported."""
    done = CliRunner().invoke(cli, ["export", str(place), "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0
    return place / "export"


def inputs(name: str, count: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(count)
    metadata = torch.rand(count, 2, generator=source)
    if name == "generator":
        labels = torch.cat([torch.eye(3)[torch.arange(count) % 3], metadata], dim=1)
        return {"z": torch.randn(count, 128, generator=source), "labels": labels}
    images = torch.rand(count, 1, 32, 32, generator=source) * 2 - 1
    return {"images": images, "metadata": metadata}


def expected(graph: Any, name: str, given: dict[str, Tensor]) -> list[np.ndarray]:
    """What the run's own network says, its average."""
    network = graph.ema[name].eval()
    with torch.no_grad():
        found = network(*given.values())
        if name == "generator":
            return [found.numpy()]
        return [found["logits"].numpy(), found["logits"].softmax(dim=1).numpy()]


def test_the_files_are_there_and_nothing_else(out: Path) -> None:
    suffixes = (".onnx", ".pt2", ".safetensors")
    names = {f"{network}{suffix}" for network in NETWORKS for suffix in suffixes}
    assert {path.name for path in out.iterdir()} == names | {"README.md"}


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_and_torch_say_what_the_network_says(
    out: Path, graph: Any, name: str, count: int
) -> None:
    given = inputs(name, count)
    wanted = expected(graph, name, given)
    session = onnxruntime.InferenceSession(out / f"{name}.onnx")
    by_onnx = session.run(None, {key: value.numpy() for key, value in given.items()})
    outputs = ["images"] if name == "generator" else ["logits", "probabilities"]
    assert [output.name for output in session.get_outputs()] == outputs
    assert session.get_inputs()[0].shape[0] == "batch"
    with torch.no_grad():
        by_torch = torch.export.load(out / f"{name}.pt2").module()(*given.values())
    if name == "generator":
        by_torch = [by_torch]
    for one, other, truth in zip(by_onnx, by_torch, wanted, strict=True):
        assert np.abs(one - truth).max() < 1e-4
        assert np.abs(other.numpy() - truth).max() < 1e-4
    assert np.ptp(wanted[0]) > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_safetensors_hold_the_average(out: Path, graph: Any, name: str) -> None:
    found, state = load_file(out / f"{name}.safetensors"), graph.ema[name].state_dict()
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_no_file_holds_a_pickle_or_a_path_of_this_machine(out: Path) -> None:
    root = str(Path(__file__).parents[1]).encode()
    for path in out.iterdir():
        parts = [path.read_bytes()]
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                parts = [archive.read(name) for name in archive.namelist()]
                # A pickle of protocol 2, as torch writes them, alone or in an archive.
                assert not any(part.startswith((b"\x80\x02", b"PK\x03\x04")) for part in parts)
        for part in parts:
            for word in (root, str(Path.home()).encode() + b"/", str(out.parent).encode()):
                assert word not in part, (path.name, word)


# -- the card --------------------------------------------------------------------------------------


def test_the_cards_code_loads_each_file(
    out: Path, graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out)
    text = (out / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        name = "generator" if "z" in names else "classifier"
        asked = {key: torch.as_tensor(names[key]) for key in inputs(name, 1)}
        (file,) = (path.name for path in out.iterdir() if path.name in block)
        assert file.startswith(name)
        answers = ["images"] if name == "generator" else ["logits", "probabilities"]
        for answer, truth in zip(answers, expected(graph, name, asked), strict=True):
            found = torch.as_tensor(names[answer]).detach().numpy()
            assert np.abs(found - truth).max() < 1e-4, file


def test_the_card_says_what_was_measured_and_on_what(place: Path, out: Path) -> None:
    text = (out / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "xraygan" and front["pipeline_tag"] == "image-classification"
    metrics = json.loads((place / "evaluation.json").read_text())["metrics"]
    (found,) = front["model-index"][0]["results"]
    assert {m["name"]: m["value"] for m in found["metrics"]} == {
        name: one["value"] for name, one in metrics.items()
    }
    low, high = metrics["auc/mean"]["interval"]
    assert f"| auc/mean | {metrics['auc/mean']['value']:.3f} | {low:.3f} to {high:.3f} |" in text
    summary = json.loads((place / "environment.json").read_text())["dataset"]
    assert f"| images | {summary['images']['train']} | {summary['images']['test']} |" in text
    assert summary["fingerprint"] in text
    for said in (
        "| generator | input | `z` | (N, 128) | standard normal |",
        "| classifier | output | `probabilities` | (N, 3) | in [0, 1], adding up to 1 |",
        "0. No Finding\n1. Edema\n2. Mass",
        "the average of its weights with decay 0.5",
        "## Privacy audit\n\nNone was made.",
        "not a diagnostic device",
        "(`phantom`): none is needed",
        'plugin = "cgan"',
    ):
        assert said in text, said


def test_the_card_names_what_is_of_another_step_and_the_audit(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"generated": 8, "training_images": 36, "held_out_images": 9}
    audit = {"verdict": "copies", "says": "COPIES <TRAINING> IMAGES: 8", "step": 700}
    evaluation = place / "evaluation.json"
    before = evaluation.read_bytes()
    found = {**json.loads(before), "step": 700}
    found["protocol"]["changed"] = {"metrics.fid.weights": str(place / "inception.pth")}
    evaluation.write_text(json.dumps(found))
    environment = place / "environment.json"
    known = environment.read_bytes()
    data = json.loads(known)
    data["dataset"]["notes"] = ["no patients are known"]
    environment.write_text(json.dumps(data))
    (place / "audit.json").write_text(json.dumps({**audit, "protocol": about}))
    try:
        words = ["--format", "safetensors", "--out", tmp_path / "x"]
        xraygan(capsys, "export", place, *words)
    finally:
        evaluation.write_bytes(before)
        environment.write_bytes(known)
        (place / "audit.json").unlink()
    text = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "model-index" not in text and str(place) not in text
    assert "than the run's recipe: metrics.fid.weights = inception.pth. Protocol" in text
    assert "no patient is in two splits, as far as patients are known (no patients are" in text
    for what in ("measured", "made"):
        assert f"**It was {what} at step 700, not at the step of these files.**" in text
    assert "COPIES &lt;TRAINING> IMAGES: 8 (8 generated, 36 training and 9 held-out" in text


# -- what is refused -------------------------------------------------------------------------------


def test_nothing_is_written_over(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in out.iterdir()}
    said = xraygan(capsys, "export", out.parent, "--format", "safetensors", code=2)
    assert f"{out} is not empty; name a new folder with --out" in said
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_missing_package_is_named_with_its_extra(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = xraygan(capsys, "export", place, "--out", tmp_path / "x", code=2)
    assert "the package onnxscript is not installed: pip install 'xraygan[onnx]'" in said
    assert not (tmp_path / "x").exists()
    words = ["--format", "safetensors", "--out", tmp_path / "x"]
    assert "generator.safetensors" in xraygan(capsys, "export", place, *words)


def test_a_network_that_cannot_be_traced_is_named(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which network of a generator for each class runs depends on the labels."""
    place = saved(
        tmp_path_factory.mktemp("p"), gan("dcgan_per_class").replace('class"', 'class"\nwidth = 4')
    )
    said = xraygan(capsys, "export", place, "--format", "torch", code=2)
    assert "the generator PerClassGenerator cannot be written as onnx or torch" in said
    assert "--format safetensors writes its weights" in said
    assert not (place / "export").exists()
    xraygan(capsys, "export", place, "--format", "safetensors")
    text = (place / "export" / "README.md").read_text(encoding="utf-8")
    assert (
        yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == "unconditional-image-generation"
    )


def test_a_full_disk_leaves_no_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))

    def fsync(handle: int) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    words = ["--format", "safetensors", "--out", tmp_path / "x"]
    assert "No space left on device" in xraygan(capsys, "export", place, *words, code=2)
    assert not (tmp_path / "x").exists()
