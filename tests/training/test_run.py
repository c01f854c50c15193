"""Whole runs: the run directory, resuming to the same bits, being stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import tomli_w
from click.testing import CliRunner
from conftest import SMALL, real_data

from xraygan.cli import cli
from xraygan.recipe.loading import load
from xraygan.rundir import checkpoint
from xraygan.training.engine import run
from xraygan.training.trainer import Trainer
from xraygan.utils.signals import Interrupted

TERMS = {
    "generator", "discriminator", "classification", "pseudo_label",
    "inception", "mmd", "style_transfer", "gram",
}  # fmt: skip


def small(*overrides: str, recipe: str = "ucgan_full") -> list[str]:
    """Arguments of `xraygan run` for a run of seconds."""
    phantom = ["classifier.weights=random", 'data.classes=["Cardiomegaly", "Effusion", "Edema"]']
    sets = [*SMALL, *phantom, "run.steps=12", "run.save_every=5", *overrides]
    return [recipe, *(word for text in sets for word in ("--set", text))]


def xraygan(*arguments: str, code: int = 0, cwd: Path | None = None) -> str:
    """Run the command in a process of its own; returns all that it printed."""
    done = forked.xraygan(*arguments, code=code, cwd=cwd)
    return done.stdout + done.stderr


def hashes(directory: Path) -> dict[str, str]:
    found = checkpoint.latest(directory / "checkpoints")
    assert found is not None
    assert (found.directory.parent / "latest").read_text() == found.directory.name + "\n"
    return found.manifest.files


def logged(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An uninterrupted small run, through the command line."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    xraygan("run", *small(), "--out", str(out))
    yield out


def test_the_run_directory_is_whole(finished: Path) -> None:
    for name in (
        "recipe.toml", "environment.json", "metrics.jsonl", "evaluation.json", "predictions.csv",
        "report.html", "run.log", "samples/step-00000012.png", "samples/real.png",
        "samples/step-00000012.csv", "samples/real.csv",
        "checkpoints/step-00000012/manifest.json",
        "checkpoints/step-00000012/generator.safetensors", "checkpoints/latest",
    ):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    lines = logged(finished)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert set().union(*(line["terms"] for line in lines)) == TERMS
    assert not list(finished.rglob(".*building*"))


def test_the_resolved_recipe_is_the_same_run(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    xraygan("run", str(finished / "recipe.toml"), "--out", str(again))
    assert hashes(again) == hashes(finished)
    first, second = (json.loads((d / "evaluation.json").read_text()) for d in (finished, again))
    assert first == second
    assert (again / "recipe.toml").read_text() == (finished / "recipe.toml").read_text()


@pytest.mark.slow
def test_a_signalled_run_resumes_to_the_same_bits(finished: Path, tmp_path: Path) -> None:
    number = signal.SIGTERM
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "xraygan", "run", *small(), "--out", str(out)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or len(logged(out)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert "--resume" in said
    assert checkpoint.latest(out / "checkpoints") is not None
    xraygan("run", *small(), "--out", str(out), "--resume")
    assert hashes(out) == hashes(finished)


def test_a_run_is_never_overwritten(finished: Path) -> None:
    before = hashes(finished)
    said = xraygan("run", *small(), "--out", str(finished), code=2)
    assert "--resume" in said and "--out" in said
    said = xraygan("run", *small("run.seed=1"), "--out", str(finished), "--resume", code=2)
    assert "run.seed: 0 there, 1 now" in said
    assert hashes(finished) == before


def test_a_damaged_checkpoint_is_passed_over(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out, symlinks=True)
    target = next((out / "checkpoints").glob("step-00000012/generator.safetensors"))
    target.write_bytes(target.read_bytes()[:-1] + b"\xff")
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None and found.step == 10


def test_signals_outside_a_step_do_not_lose_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the middle of a step is answered after it, with a checkpoint."""
    recipe = load("ucgan_full", small()[2::2])
    take_step = Trainer.step

    def signalled(self: Trainer, step: int) -> dict:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, step)

    monkeypatch.setattr(Trainer, "step", signalled)
    with pytest.raises(Interrupted) as stopped:
        run(recipe, tmp_path / "run")
    assert stopped.value.number == signal.SIGTERM
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None and found.step == 5


def test_evaluate_repeats_the_figures(finished: Path) -> None:
    before = (finished / "evaluation.json").read_text()
    said = xraygan("evaluate", str(finished))
    assert (finished / "evaluation.json").read_text() == before
    assert "auc/Edema" in said


def test_generate_writes_images_of_a_class(finished: Path, tmp_path: Path) -> None:
    xraygan("generate", str(finished), "--count", "5", "--out", str(tmp_path / "any"))
    assert len(list((tmp_path / "any").glob("*.png"))) == 5
    said = xraygan(
        "generate", str(finished), "--count", "1", "--class", "Edemma",
        "--out", str(tmp_path / "none"), code=2,
    )  # fmt: skip
    assert "did you mean 'Edema'" in said
    assert not (tmp_path / "none").exists()


def test_conditional_runs_generate_the_class_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = [s for s in SMALL if not s.startswith(("generator", "discriminator", "scores"))]
    sets += ["classifier.weights=random", "run.steps=2", 'data.classes=["Mass", "Edema"]']
    arguments = [word for text in sets for word in ("--set", text)]
    xraygan("run", "cgan", *arguments, "--out", str(out))
    xraygan("generate", str(out), "--count", "70", "--class", "Edema", "--out", str(tmp_path / "g"))
    lines = (tmp_path / "g" / "generated.csv").read_text().splitlines()
    column = lines[0].split(",").index("condition:Edema")
    assert len(lines) == 71
    assert {line.split(",")[column] for line in lines[1:]} == {"1"}
    assert {line.split(",")[1] for line in lines} == {"label", "Edema"}


@pytest.mark.slow
def test_the_paper_recipe_trains_on_the_real_images(tmp_path: Path) -> None:
    """ChestX-ray14 at 64 pixels for speed; every term of Eq. 11 is present and finite."""
    root = real_data("chestxray14")
    sets = [
        f"data.root={root}", "data.image_size=64", "run.steps=3", "run.log_every=1",
        "classifier.plugin=resnet18", "classifier.weights=random",
        "extractors.vgg19.weights=random", "evaluation.generated=8", "evaluation.bootstrap=10",
    ]  # fmt: skip
    arguments = [word for text in sets for word in ("--set", text)]
    xraygan(
        "run", "recipes/ucgan_full.toml", *arguments, "--out", str(tmp_path / "run"), cwd=tmp_path
    )
    terms: dict[str, float] = {}
    for line in logged(tmp_path / "run"):
        terms |= line["terms"]
    assert set(terms) == TERMS
    assert all(abs(value) < float("inf") for value in terms.values())


def test_check_prints_the_graph() -> None:
    arguments = small()
    said = CliRunner().invoke(cli, ["check", *arguments], catch_exceptions=False).output
    for word in ("generator", "resnet18", "style_transfer", "-0.25", "classifier, generator"):
        assert word in said


def test_missing_data_says_where_to_get_it(tmp_path: Path) -> None:
    said = xraygan("run", "ucgan_full", "--set", f"data.root={tmp_path}/none", code=2, cwd=tmp_path)
    for word in ("nihcc.app.box.com", "images_001", "data.plugin=phantom", "data.root=DIR"):
        assert word in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_a_recipe_survives_being_written_and_read(tmp_path: Path) -> None:
    recipe = load(
        "ucgan_as_released", ["classifier.weights=random", "extractors.vgg19.weights=random"]
    )
    (tmp_path / "again.toml").write_text(tomli_w.dumps(recipe.resolved()))
    assert load(tmp_path / "again.toml").resolved() == recipe.resolved()
