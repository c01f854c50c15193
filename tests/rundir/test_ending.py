"""When a run is done, and what remains to do of one that was killed at its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import gan
from rich.console import Console
from torch import Tensor, nn
from undisturbed import outcome

from xraygan import Labeler, Objective, Score
from xraygan.recipe.loading import Recipe
from xraygan.report.run_report import report
from xraygan.rundir import checkpoint
from xraygan.rundir.completion import lacking, missing_results, total_steps
from xraygan.rundir.reader import RunFiles
from xraygan.session.session import restore_session
from xraygan.training.engine import run
from xraygan.training.final_evaluation import evaluate_run
from xraygan.training.trackers import Trackers
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

SILENT = Display(Console(quiet=True))


class Killed(BaseException):
    """Nothing is written any more."""


def recipe(**run_words: Any) -> Recipe:
    """A generator and a classifier, measured and tracked."""
    words = {"steps": 4, "batch_size": 4, "save_every": 2, "log_every": 1}
    return gan(run=words | run_words, evaluation={"bootstrap": 20, "generated": 4}).changed(
        "classifier.plugin=resnet18", "classifier.weights=random", "classifier.optimizer.name=sgd",
        "metrics.auc={}", "trackers.csv={}",
    )  # fmt: skip


def dying(patch: pytest.MonkeyPatch, moment: int, began: Callable[[], bool]) -> Callable[[], bool]:
    """Let the process die at a change of the file system, or where trackers are told the end.

    Args:
        began: whether changes count yet.

    Returns:
        Whether it died.
    """
    left = moment

    def armed(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **words: Any) -> Any:
            nonlocal left
            left -= began()
            if left < 0:  # also in what is done on the way out
                raise Killed
            return call(*arguments, **words)

        return counted

    for owner, name in (
        (Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "write_text"),
        (Trackers, "close"),
    ):  # fmt: skip
        patch.setattr(owner, name, armed(getattr(owner, name)))
    return lambda: left < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(recipe(), tmp_path_factory.mktemp("whole") / "run", display=SILENT).path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as it was when its last step was saved."""
    place = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        saved: list[Path] = []
        save = checkpoint.save

        def saving(folder: Path, step: int, *arguments: Any, **words: Any) -> Path:
            saved.append(save(folder, step, *arguments, **words))
            if step == 4:
                raise Killed
            return saved[-1]

        patch.setattr(checkpoint, "save", saving)
        run(recipe(), place, display=SILENT)
    return place


def test_a_run_killed_at_each_step_of_its_end_ends_as_if_it_was_not(
    whole: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraygan.report.run_report.report", lambda run: "drawing it takes a second")
    undisturbed, moment, died = outcome(whole), 0, True
    while died:
        place = tmp_path / f"run-{moment}"
        shutil.copytree(trained, place)
        with pytest.MonkeyPatch.context() as patch:
            # The places of files that a resumed run writes before are tested in test_crash.py.
            ran: list[bool] = []
            take = Trainer.run
            patch.setattr(Trainer, "run", lambda self: (take(self), ran.append(True))[0])  # noqa: B023
            dead = dying(patch, moment, lambda: bool(ran))  # noqa: B023
            try:
                run(recipe(), place, resume=True, display=SILENT)
            except Killed:
                assert dead()
            died = dead()
        if died:
            assert lacking(place), moment
            run(recipe(), place, resume=True, display=SILENT)
        assert not lacking(place)
        assert outcome(place) == undisturbed, moment
        shutil.rmtree(place)
        moment += 1
    assert moment > 8


@pytest.mark.parametrize("halfway", [False, True])
def test_a_run_killed_before_it_removed_an_old_checkpoint_removes_it_when_resumed(
    halfway: bool, tmp_path: Path
) -> None:
    """Its last checkpoint is written by then, so no later one would."""
    keep_one = recipe(keep=1)
    whole = run(keep_one, tmp_path / "whole", display=SILENT).path
    place, remove = tmp_path / "run", shutil.rmtree

    def dies(path: Path, *arguments: Any, **words: Any) -> None:
        if path.name == "step-00000002" and path.exists():
            if halfway:
                (path / "manifest.json").unlink()
            raise Killed
        remove(path, *arguments, **words)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", dies)
        run(keep_one, place, display=SILENT)
    assert (place / "checkpoints/step-00000002").exists()
    run(keep_one, place, resume=True, display=SILENT)
    assert outcome(place) == outcome(whole)


LOST = [
    "evaluation.json", "predictions.csv", "report.html", "samples/step-00000004.png",
    "samples/step-00000004.csv", "samples/real.png", "finished",
]  # fmt: skip


@pytest.mark.parametrize("lost", LOST)
def test_what_is_missing_of_the_end_is_made_without_training(
    lost: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    shutil.copytree(whole, place)
    if lost == "finished":
        content = json.loads((place / "environment.json").read_text()) | {"finished": None}
        (place / "environment.json").write_text(json.dumps(content))
    else:
        (place / lost).unlink()
    monkeypatch.delattr(Trainer, "step")
    if lost == "samples/real.png":  # no part of the end, and made with it
        (place / "report.html").unlink()
    assert any(lost in word for word in lacking(place)) or "real" in lost
    run(recipe(), place, resume=True, display=SILENT)
    assert outcome(place) == outcome(whole)
    before = outcome(place), (place / "environment.json").read_text()
    run(recipe(), place, resume=True, display=SILENT)
    assert (outcome(place), (place / "environment.json").read_text()) == before


@pytest.fixture(scope="module")
def stopped(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run after two of its four steps."""
    place = tmp_path_factory.mktemp("stopped") / "run"
    shutil.copytree(trained, place)
    shutil.rmtree(place / "checkpoints/step-00000004")
    return place


def test_evaluating_an_unfinished_run_does_not_end_it(
    whole: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    shutil.copytree(stopped, place)
    session, opened, step = restore_session(place, [], Display())
    assert "is not finished, 2 of 4 steps are trained; this is step 2" in capsys.readouterr().err
    found = json.loads(evaluate_run(session, opened, step).read_text())
    assert found["step"] == 2 and found["protocol"]["unfinished"] == "2 of 4 steps are trained"
    assert missing_results(place) == lacking(place) == ["steps 3 to 4 of its training"]
    page = report(RunFiles(place))
    assert "Not finished: it lacks steps 3 to 4 of its training." in page
    assert "Measured before the run was finished: 2 of 4 steps are trained." in page
    run(recipe(), place, resume=True, display=SILENT)
    assert outcome(place) == outcome(whole)
    assert "ot finished" not in report(RunFiles(place))


def test_a_run_whose_end_was_measured_otherwise_is_measured_as_its_recipe_says(
    whole: Path, trained: Path, tmp_path: Path
) -> None:
    """Killed before its own evaluation, and measured with other keys meanwhile."""
    place = tmp_path / "run"
    shutil.copytree(trained, place)
    evaluate_run(*restore_session(place, ["evaluation.generated=6"], SILENT))
    assert lacking(place) == ["the evaluation of its last step, 4"]
    run(recipe(), place, resume=True, display=SILENT)
    assert outcome(place) == outcome(whole)


def test_a_done_run_that_was_measured_at_another_step_is_done(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    shutil.copytree(whole, place)
    evaluate_run(*restore_session(place, [], SILENT, "2"))
    assert not lacking(place)
    run(recipe(), place, resume=True, display=Display())
    assert "is complete; its evaluation.json was measured at step 2" in capsys.readouterr().err


def test_epochs_end_after_their_whole_batches() -> None:
    run_words = {"epochs": 2, "batch_size": 8}
    images = {"dataset": {"images": {"train": 30}}}
    assert total_steps({"run": run_words}, images) == 6
    assert total_steps({"run": run_words}, {}) is None
    assert total_steps({"run": {"steps": 9}}, {}) == 9


# -- what parts remember ---------------------------------------------------------------------------


class Running(Score):
    """The distance from a running mean, which it keeps in a buffer"""

    trains = ("generator",)
    reads = ("generator",)
    mean: Tensor

    def __init__(self, **words: Any) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, step: Any) -> Tensor:
        now = step.fake.mean()
        self.mean.lerp_(now.detach(), 0.5)
        return (now - self.mean - 0.1).square()


class Smoothed(nn.Module, Objective):
    """Losses less a mean that follows them"""

    mean: Tensor

    def __init__(self, **words: Any) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def generator_loss(self, step: Any) -> Tensor:
        return (step.fake_scores - self.mean).square().mean()

    def discriminator_loss(self, step: Any) -> Tensor:
        self.mean.lerp_(step.real_scores.detach().mean(), 0.5)
        return (step.real_scores - 1 - self.mean).square().mean() + step.fake_scores.square().mean()


class Adaptive(nn.Module, Labeler):
    """A threshold that follows what the classifier says"""

    threshold: Tensor

    def __init__(self, task: Any, **words: Any) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.3))

    def label(self, step: Any) -> tuple[Tensor, Tensor]:
        probs = step.fake_probs.detach()
        most, labels = probs.max(dim=1)
        self.threshold.lerp_(most.mean(), 0.5)
        return labels, torch.sigmoid(10 * (most - self.threshold))


PARTS: dict[str, tuple[str, type]] = {
    "scores.inception": ("scores.inception={weight=1.0}", Running),
    "objective": ("objective.plugin=minmax", Smoothed),
    "labeler": ("labeler.plugin=confidence", Adaptive),
}


def with_part(table: str) -> Recipe:
    override, cls = PARTS[table]
    found = recipe().changed(override)
    choice = found.choices[table]
    part = replace(choice.part, target=cls)
    return replace(found, choices={**found.choices, table: replace(choice, part=part)})


@pytest.mark.parametrize("table", PARTS)
def test_what_a_part_without_parameters_remembers_is_saved(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(with_part(table), tmp_path / "whole", display=SILENT).path
    take = Trainer.step

    def killed(loop: Trainer, step: int) -> Any:
        if step == 3:
            raise Killed
        return take(loop, step)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "step", killed)
        run(with_part(table), tmp_path / "cut", display=SILENT)
    run(with_part(table), tmp_path / "cut", resume=True, display=SILENT)
    assert outcome(tmp_path / "cut") == outcome(undisturbed)
    assert (undisturbed / f"checkpoints/step-00000004/{table}.state.safetensors").is_file()
    # Another run starts from its networks, and what parts remember begins anew.
    assert f"{table}.state" not in checkpoint.find(undisturbed / "checkpoints", "latest").networks()
