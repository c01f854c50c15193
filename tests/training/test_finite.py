"""Numbers that are not finite, signs of collapse, and the best checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from xraygan_scores.distributions import MMD

from xraygan import Step, UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir import checkpoint
from xraygan.training.callbacks import Callbacks
from xraygan.training.collapse_monitor import CollapseMonitor, diversity
from xraygan.training.engine import run
from xraygan.training.nonfinite import MAX_SKIPPED
from xraygan.training.trackers import Trackers
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

GIVEN = (
    *SMALL,
    "classifier.weights=random",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]',
    "run.steps=8",
    "run.save_every=3",
)


def recipe(*overrides: str) -> Recipe:
    return load("ucgan_full", [*GIVEN, *overrides])


def silent() -> Display:
    return Display(Console(quiet=True))


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def broken_at(
    monkeypatch: pytest.MonkeyPatch, steps: range, breaks: Callable[[Tensor], Tensor]
) -> None:
    """Let the term ``mmd`` do something else in some steps (0, 1, ...) of an 8-step run."""
    whole = MMD.forward

    def forward(self: MMD, step: Step) -> Tensor:
        value = whole(self, step)
        return breaks(value) if round(step.progress * 8) in steps else value

    monkeypatch.setattr(MMD, "forward", forward)


def not_a_number(value: Tensor) -> Tensor:
    return value * float("nan")


def steep(value: Tensor) -> Tensor:
    """The same value, with a gradient of infinity times zero."""
    return value + (value - value.detach()).square().sqrt()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of all steps of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(recipe("run.save_every=1", "run.keep=0"), folder, display=silent())
    return folder / "checkpoints"


@pytest.mark.parametrize("way", ["stop", "skip"])
def test_a_term_that_nobody_learns_from_stops_nothing(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is for the log alone: neither the run nor a step ends for it, and no weight changes."""
    extra = ("scores.mmd.trains=[]", "run.save_every=8", f"run.on_nonfinite={way}")
    run(recipe(*extra), tmp_path / "whole", display=silent())
    broken_at(monkeypatch, range(2, 4), not_a_number)
    run(recipe(*extra), tmp_path / "broken", display=silent())
    last = "checkpoints/step-00000008/manifest.json"
    hashes = [json.loads((tmp_path / name / last).read_text())["files"]
              for name in ("whole", "broken")]  # fmt: skip
    assert hashes[0] == hashes[1]
    lines = [line for line in logged(tmp_path / "broken") if "terms" in line]
    assert [line["terms"]["mmd"] is None for line in lines] == [False, False, True, True] + 4 * [
        False
    ]
    assert not any("skipped" in line for line in lines)


@pytest.mark.parametrize(
    ("breaks", "gist"),
    [
        (not_a_number, "the term 'mmd' is nan"),
        (steep, "the gradient of the term 'mmd' in the classifier and generator is not finite"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_what_is_not_finite_stops_the_run_and_changes_nothing(
    breaks: Callable[[Tensor], Tensor],
    gist: str,
    late: bool,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken_at(monkeypatch, range(4, 5), breaks)
    if late:  # as on a GPU, which is asked only before something is kept
        check = Trainer._check_finite
        monkeypatch.setattr(
            Trainer,
            "_check_finite",
            lambda self, done, **_: check(self, done) if done == 6 else None,
        )
    with pytest.raises(UserError) as stopped:
        run(recipe(), tmp_path / "run", display=silent())
    said = str(stopped.value)
    assert "step 5" in said and gist in said
    assert "the checkpoint of step 3 is intact" in said
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None and found.step == 3
    folder = tmp_path / "run" / "nonfinite" / "step-00000005"
    told = json.loads((folder / "diagnosis.json").read_text())
    assert set(told["gradients"]) == {"mmd"} and not told["parameters"]
    assert load_file(folder / "batch.safetensors")["fake"].shape == (4, 1, 32, 32)
    # The fifth step is the first that was not taken.
    for network in ("generator", "classifier", "discriminator"):
        ours = load_file(folder / f"{network}.safetensors")
        after_four = load_file(whole / "step-00000004" / f"{network}.safetensors")
        for name, tensor in after_four.items():
            if "running" not in name and "num_batches" not in name:
                assert torch.equal(ours[name], tensor), (network, name)


@pytest.mark.slow
def test_a_step_that_is_left_out_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken_at(monkeypatch, range(4, 5), not_a_number)
    given = recipe('run.on_nonfinite="skip"', "run.save_every=1", "run.keep=0", "run.log_every=3")
    with caplog.at_level(logging.WARNING):
        run(given, tmp_path / "run", display=silent())
    assert "step 5 is skipped: 'mmd' is not finite" in caplog.text
    saved = tmp_path / "run" / "checkpoints"
    manifests = [json.loads((saved / f"step-0000000{i}/manifest.json").read_text()) for i in (4, 5)]
    assert manifests[0]["files"] == manifests[1]["files"]  # batch norms' statistics included
    lines = logged(tmp_path / "run")
    assert [line.get("skipped", 0) for line in lines] == [0, 1, 1]
    # A run that is taken up between two logged lines writes the same next line.
    (tmp_path / "again").mkdir()
    cut = tmp_path / "again"
    (cut / "recipe.toml").write_text((tmp_path / "run/recipe.toml").read_text())
    (cut / "metrics.jsonl").write_text((tmp_path / "run/metrics.jsonl").read_text())
    (cut / "checkpoints").mkdir()
    (cut / "samples").mkdir()
    (saved / "step-00000005").rename(cut / "checkpoints" / "step-00000005")
    run(given, cut, resume=True, display=silent())
    ours = logged(cut)
    timeless = (
        {k: v for k, v in x.items() if "seconds" not in k and "_per_" not in k} for x in ours
    )
    assert list(timeless) == [
        {k: v for k, v in x.items() if "seconds" not in k and "_per_" not in k} for x in lines
    ]


def test_leaving_steps_out_ends_when_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MMD, "forward", lambda self, step: step.fake_probs.sum() * float("inf"))
    given = recipe('run.on_nonfinite="skip"', f"run.steps={MAX_SKIPPED + 5}", "run.save_every=0")
    with pytest.raises(UserError, match=f"none of the last {MAX_SKIPPED} steps was finite"):
        run(given, tmp_path / "run", display=silent())


def test_parameters_that_are_not_finite_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_step_end = Callbacks.on_step_end

    def spoil(self: Callbacks, done: int, meter: Any) -> None:
        if done == 6:
            next(self.graph.networks["discriminator"].parameters()).data.view(-1)[0] = float("inf")
        on_step_end(self, done, meter)

    monkeypatch.setattr(Callbacks, "on_step_end", spoil)
    with pytest.raises(UserError, match=r"step 6: .* of the discriminator is not finite"):
        run(recipe(), tmp_path / "run", display=silent())
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None and found.step == 3


def test_the_best_checkpoint_is_kept_besides_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(
        'run.keep_best="frechet_classifier"', "run.evaluate_every=1", "run.save_every=1",
        "run.keep=1", "data.validation=0.3",
    )  # fmt: skip
    run(given, tmp_path / "run", display=silent())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = {
        x["step"]: x["evaluation"]["frechet_classifier"] for x in lines if "evaluation" in x
    }
    best = min(measured, key=lambda step: measured[step])
    saved = tmp_path / "run" / "checkpoints"
    assert checkpoint.find(saved, "best").step == best
    kept = {path.name for path in saved.iterdir()} - {"latest", "best"}
    assert kept == {f"step-{best:08d}", "step-00000008"}
    with pytest.raises(UserError, match=r"no checkpoint 'bst'; there are the steps 8, \d"):
        checkpoint.find(saved, "bst")
    # A resumed run remembers which was the best.
    callbacks = Callbacks.__new__(Callbacks)
    monkeypatch.setattr(Callbacks, "_real_images", lambda self: torch.zeros(2, 4, 4))
    callbacks.config, callbacks.run_dir = given.tables.run, _Place(tmp_path / "run")
    callbacks.trackers = Trackers({})
    callbacks.session = SimpleNamespace(watched="val")
    callbacks.total = 9
    callbacks.on_train_start(8)
    assert callbacks._best_value == measured[best]


class _Place:
    """The run directory, unable to change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"

    def keep_metrics_until(self, step: int) -> None: ...

    def read_metrics(self) -> list[dict]:
        return logged(self.path)


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    images = torch.randint(0, 256, (5, 6, 7), dtype=torch.uint8)
    pairs = [
        sum((float(a) - float(b)) ** 2 for a, b in zip(x.flatten(), y.flatten(), strict=True))
        for i, x in enumerate(images)
        for y in images[:i]
    ]
    assert diversity(images) == pytest.approx(sum((d / 42) ** 0.5 for d in pairs) / len(pairs))


def test_collapse_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = CollapseMonitor()
    watch.check_diversity(10, 0.05, 1.0, 50.0)  # every generator begins so
    watch.check_accuracy(150, 150, 1.0)
    watch.check_accuracy(200, 50, 0.98)
    watch.check_accuracy(300, 100, 1.0)
    watch.check_diversity(300, 0.3, 40.0, 50.0)
    assert not caplog.records
    for done in (400, 500):
        watch.check_accuracy(done, 100, 1.0)
        watch.check_diversity(done, 0.5, 20.0, 50.0)
    assert len(caplog.records) == 2
    assert "made no mistake in 200 steps" in caplog.text
    assert "two generated images differ by 20.0 grey levels" in caplog.text


def test_a_run_measures_its_discriminator(whole: Path) -> None:
    records = [line["records"] for line in logged(whole.parent)]
    found = [r["discriminator_accuracy"] for r in records if "discriminator_accuracy" in r]
    assert found  # in the steps in which it learns
    assert all(x * 8 == round(x * 8) and 0 <= x <= 1 for x in found)
