"""A step of the loop: parts of a batch, compiled networks."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from rich.console import Console

from xraygan.recipe.loading import load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.precision import flushed_denormals
from xraygan.utils.progress import Display
from xraygan.utils.seeding import rng

GIVEN = (
    *SMALL,
    "classifier.weights=random",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]',
    "run.steps=4",
    "run.batch_size=8",
)


def loop_of(folder: Path, *overrides: str) -> Trainer:
    silent = Display(Console(quiet=True))
    session = Session.of(load("ucgan_full", [*GIVEN, *overrides]), silent)
    return Trainer(session, RunDirectory(folder), silent)


def test_an_accumulated_step_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    cut, plain = loop_of(tmp_path, "run.accumulate=2"), loop_of(tmp_path)
    real, labels, _ = plain.source.batches.batch(0)
    halves = []
    for i in range(2):
        images, names, _ = plain.source.batches.batch(0, (i, 2))
        assert torch.equal(images, real[4 * i : 4 * i + 4])
        assert torch.equal(names, labels[4 * i : 4 * i + 4])
        step = plain.graph.step(images, names, rng("cpu", 0, "latent", 0), shard=(i, 2))
        halves.append(plain.graph.gradients(step))
    seen: list = []
    cut.graph.update = lambda gradients, *_: seen.append(gradients)  # type: ignore[method-assign]
    values = cut.step(0)
    for name, value in values.items():
        if name in halves[0][0]:
            mean = (halves[0][0][name] + halves[1][0][name]) / 2
            torch.testing.assert_close(value, mean)
    for name, found in seen[0].items():
        for ours, one, other in zip(found, halves[0][1][name], halves[1][1][name], strict=True):
            if ours is not None:
                torch.testing.assert_close(ours, (one + other) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiled_networks_compute_the_same(tmp_path: Path) -> None:
    """A GAN alone, for compiling takes its time."""
    recipe = tmp_path / "gan.toml"
    recipe.write_text(
        'extends = "ucgan_full"\nclassifier = false\nlabeler = false\nscores = false\n'
        "extractors = false\nmetrics = false\n"
    )
    given = [
        word
        for word in GIVEN
        if word.startswith(("data.", "generator.", "discriminator.", "run.", "evaluation.batch"))
    ]

    def steps(*overrides: str) -> list[dict[str, float]]:
        silent = Display(Console(quiet=True))
        session = Session.of(load(str(recipe), [*given, *overrides]), silent)
        loop = Trainer(session, RunDirectory(tmp_path / "run"), silent)
        return [{n: float(v) for n, v in loop.step(i).items()} for i in range(2)]

    for found, expected in zip(steps("run.compile=default"), steps(), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is told")
def test_freed_memory_is_kept() -> None:
    script = """
import resource, sys, torch
from xraygan.utils.precision import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.ones(2**25)  # with room around: an aligned block does not fit where one like it has been
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(9)))
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", script, what], capture_output=True).stdout)
        for what in ("keep", "leave")
    )
    assert kept < 10 < given_back


def denormals_kept() -> bool:
    """Whether a number below float32's normal ones stays, whichever thread computes it."""
    kept = torch.full((2**22,), 1e-39) * 0.5 != 0
    assert kept.all() or not kept.any(), "the threads differ"
    return bool(kept.all())


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="not a mode of this processor")
def test_denormal_numbers_are_zero_while_a_run_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in threads that were there before; they make a step slower, and are kept elsewhere."""
    loop = loop_of(tmp_path, "run.steps=2", "run.threads=2")
    monkeypatch.setattr(loop, "callbacks", None)
    seen: list[bool] = []

    def step(number: int) -> dict[str, torch.Tensor]:
        seen.append(denormals_kept())
        return {}

    monkeypatch.setattr(loop, "step", step)
    assert denormals_kept()
    loop.run()
    assert seen == [False, False] and denormals_kept()
    with flushed_denormals():
        loop.run()
        assert not denormals_kept(), "they were flushed before the run"
    assert denormals_kept()
