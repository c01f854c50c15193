"""Plugins and a run directory of version 0.1.0 work unchanged: see fixtures/0.1.0/README.md."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from xraygan import Run
from xraygan._moved import MOVED, RENAMED
from xraygan.audit import memorization
from xraygan.cli import main
from xraygan.parts.registry import KINDS, commands, installed
from xraygan.testing.stand_ins import Bench

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the fixtures of version 0.1.0 are in a checkout only"
)

Command = Callable[..., str]


@pytest.fixture(scope="module")
def old_plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugins of version 0.1.0 as pip installs them, a distribution each."""
    site = tmp_path_factory.mktemp("site")
    for module in sorted(path.stem for path in (FIXTURES / "plugins").glob("xraygan_old_*.py")):
        shutil.copy(FIXTURES / "plugins" / f"{module}.py", site)
        about = site / f"{module}-0.1.0.dist-info"
        about.mkdir()
        name = module.replace("_", "-")
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        point = f"{module.removeprefix('xraygan_')} = {module}"
        (about / "entry_points.txt").write_text(f"[xraygan]\n{point}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        for registry in (installed, commands):
            registry.cache_clear()
        yield
    for registry in (installed, commands):
        registry.cache_clear()


@pytest.fixture
def command(
    old_plugins: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command line in this process; returns what it prints."""
    monkeypatch.setattr(memorization, "BOOTSTRAP", 50)
    monkeypatch.setattr(memorization, "PERMUTATIONS", 99)

    def command(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["xraygan", *map(str, words)])
        with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            main()
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out + said.err

    return command


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the run directory."""
    return shutil.copytree(FIXTURES / "run", tmp_path / "run")


# -- plugins ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plugins_of_every_kind_pass_their_own_tests() -> None:
    """With a warning that names where each of their imports is now."""
    folder = FIXTURES / "plugins"
    options = ["-q", "-p", "no:cacheprovider", "-W", "default"]
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *options, folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(KINDS)} passed" in done.stdout
    for old, new in (
        ("xraygan.step.Step", "xraygan.Step"),
        ("xraygan.evaluate.Evaluation", "xraygan.Evaluation"),
        ("xraygan.images.read_grey", "xraygan.plugin_api.read_grey"),
        ("xraygan.cli.common.run_argument", "xraygan.plugin_api.run_argument"),
    ):
        assert f"DeprecationWarning: {old} has moved: import {new}" in done.stdout


@pytest.mark.parametrize("old", MOVED)
def test_the_modules_that_moved_are_found_and_their_names_too(old: str) -> None:
    found = importlib.import_module(old)
    for name in RENAMED.get(old, {}):
        with pytest.warns(DeprecationWarning, match=rf"{old}\.{name} has moved: import xraygan\."):
            getattr(found, name)
    with pytest.raises(AttributeError, match="nothing"):
        found.nothing  # noqa: B018


def test_methods_of_a_step_keep_the_names_that_they_had() -> None:
    step = Bench().step()
    with pytest.warns(DeprecationWarning, match=r"Step\.judged is Step\.discriminator_pass now"):
        images, logits = step.judged("real")
    assert (images.shape, logits.shape) == (step.real.shape, (len(step.real),))
    with pytest.warns(DeprecationWarning, match=r"Step\.once is Step\.cached now"):
        assert step.once("key", lambda: 1) == step.cached("key", lambda: 2) == 1
    with pytest.warns(DeprecationWarning, match="condition_vectors"):
        assert torch.equal(step.label_vectors("fake"), step.condition_vectors("fake"))


def test_a_part_of_every_kind_is_listed_and_takes_part_in_a_run(
    command: Command, tmp_path: Path
) -> None:
    for kind in KINDS:
        assert installed().get(kind, f"old_{kind}").origin == f"xraygan-old-{kind} 0.1.0"
    parts = ("generator", "discriminator", "classifier", "objective", "augmenter", "labeler")
    (tmp_path / "recipe.toml").write_text(
        "[run]\nsteps = 2\nbatch_size = 4\n"
        "[evaluation]\ngenerated = 8\nbootstrap = 5\n"
        '[data]\nplugin = "old_dataset"\nroot = "images"\nimage_size = 32\n'
        + "".join(f'[{kind}]\nplugin = "old_{kind}"\n' for kind in parts)
        + "[scores.old_score]\nweight = 0.1\n"
        '[extractors.old_extractor]\n[scores.gram]\nextractor = "old_extractor"\nweight = 0.1\n'
        "[metrics.old_metric]\n[trackers.old_tracker]\n"
    )
    for split, count in (("train", 8), ("test", 3)):
        for grey, label in enumerate(("NORMAL", "PNEUMONIA")):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                file = folder / f"{split}{label}{i}_1.png"
                Image.linear_gradient("L").rotate(90 * grey + i).save(file)
    run = tmp_path / "run"
    root = f"data.root={tmp_path / 'images'}"
    command("run", tmp_path / "recipe.toml", "--out", run, "--set", root, "-q")
    terms = Run(run).metrics
    assert all(math.isfinite(value) for value in terms["old_score"].dropna())
    assert 0 <= Run(run).evaluation.at["old_metric", "value"] <= 1
    assert re.match(r"old_metric  0\.\d{3}  \[0\.\d{3}, 0\.\d{3}\]", command("old_command", run))


# -- the run directory -----------------------------------------------------------------------------


def figures(place: Path) -> dict[str, Any]:
    """The metrics of ``evaluation.json``."""
    return json.loads((place / "evaluation.json").read_text())["metrics"]


def test_a_run_that_is_done_is_left_as_it_is(command: Command, place: Path) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    said = command("run", place / "recipe.toml", "--out", place, "--resume")
    assert f"{place} is complete" in said.replace("\n", "")
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_a_run_is_continued_for_more_steps(command: Command, place: Path) -> None:
    command("run", place / "recipe.toml", "--out", place, "--resume", "--steps", 8, "-q")
    metrics = Run(place).metrics
    assert list(metrics.index) == list(range(1, 9))
    lines = (FIXTURES / "run" / "metrics.jsonl").read_text().splitlines()
    before = [line["terms"] for line in map(json.loads, lines) if "terms" in line]
    assert [line["discriminator"] for line in before] == pytest.approx(metrics["discriminator"][:6])
    assert json.loads((place / "evaluation.json").read_text())["step"] == 8


@pytest.mark.parametrize("checkpoint", ["latest", "best"])
def test_evaluate_gives_the_figures_that_the_run_has(
    command: Command, place: Path, checkpoint: str
) -> None:
    before = figures(place)
    command("evaluate", place, "--checkpoint", checkpoint)
    after = figures(place)
    assert after.keys() == before.keys()
    if checkpoint == "best":  # it is of another step
        assert json.loads((place / "evaluation.json").read_text())["step"] == 3
        return
    for name, old in before.items():
        new = after[name]
        assert new["value"] == pytest.approx(old["value"], rel=1e-5), name
        assert new["interval"] == pytest.approx(old["interval"], rel=1e-5), name
        assert (new["n"], new["note"]) == (old["n"], old["note"])


def test_every_other_command_reads_the_run(command: Command, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "images"
    command("generate", place, "--count", 3, "--class", "Effusion", "--out", out, "-q")
    assert len(list(out.glob("*.png"))) == 3
    (place / "report.html").unlink()
    command("report", place)
    assert "auc/Effusion" in (place / "report.html").read_text()
    old = json.loads((place / "audit.json").read_text())
    command("audit", place, "--generated", 8, "-q")
    new = json.loads((place / "audit.json").read_text())
    assert new["verdict"] == old["verdict"]
    assert [pair["training"] for pair in new["nearest"]] == [p["training"] for p in old["nearest"]]
    command("explain", place, "-q")
    assert (place / "explain" / "neighbours.png").is_file()
    command("export", place, "--format", "safetensors", "--out", tmp_path / "export", "-q")
    for name in ("generator", "classifier"):
        file = f"{name}.safetensors"
        written, before = (folder / file for folder in (tmp_path / "export", FIXTURES / "export"))
        assert written.read_bytes() == before.read_bytes()


def test_the_code_of_an_exported_card_still_loads_its_files(
    old_plugins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FIXTURES / "export")
    card = Path("README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    found: dict[str, Any] = {}
    with pytest.warns(DeprecationWarning, match="xraygan.registry.installed has moved"):
        for block in blocks:
            exec(block, found)
    assert found["images"].shape[1:] == (1, 32, 32)
    assert found["probabilities"].sum(dim=1).tolist() == pytest.approx([1, 1])
