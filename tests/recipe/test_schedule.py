"""Learning rates over a run, and a run that is killed with all that follows it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import gan
from rich.console import Console

from xraygan import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.recipe.optimization import Optimizer
from xraygan.rundir import checkpoint
from xraygan.training.engine import run
from xraygan.training.longer_runs import describe_lengthening
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_the_factor_of_a_learning_rate(warmup: float, floor: float) -> None:
    cosine = Optimizer(schedule="cosine", warmup=warmup, floor=floor)
    constant = Optimizer(warmup=warmup)
    for step in range(200):
        progress = step / 200
        if progress < warmup:
            assert cosine.factor(progress) == constant.factor(progress) == progress / warmup
            continue
        done = (progress - warmup) / (1 - warmup)
        expected = floor + (1 - floor) * math.cos(math.pi / 2 * done) ** 2
        assert cosine.factor(progress) == pytest.approx(expected, abs=1e-12)
        assert constant.factor(progress) == 1
    assert cosine.factor(warmup) == 1


def test_a_schedule_is_checked() -> None:
    for wrong in ("warmup=1.0", "floor=1.5", "schedule=linear"):
        with pytest.raises(UserError, match=rf"optimizer\] {wrong.partition('=')[0]}"):
            load("quickstart", [f"generator.optimizer.{wrong}"])


def test_what_becomes_of_phases_and_learning_rates_is_said() -> None:
    recipe = gan(
        run={"steps": 2000},
        schedule={"phases": [{"ratio": "3:1", "until": 0.5}, {"ratio": "1:1"}]},
        generator={"optimizer": {"lr": 0.1, "schedule": "cosine", "floor": 0.1, "warmup": 0.1}},
    )
    lines = describe_lengthening(recipe, ["generator", "discriminator"], 1000, 2000, 1000)
    assert lines == [
        "2000 steps in all instead of 1000; 1000 are done",
        "phase 1 (3:1) ends at step 1000 instead of 500",
        "step 1001 is in phase 2 (1:1)",
        "learning rate of the generator: rises until step 200 instead of 100",
        "learning rate of the generator: falls as a cosine to 0.01 at step 2000 instead of 1000",
        "learning rate of the generator: 0.0628 after step 1000 instead of 0.01",
        "scores and labelers that follow the run's progress see 0.5 at step 1000 instead of 1",
    ]
    phases = recipe.tables.schedule
    assert phases.phase(999 / 2000).ratio == "3:1" and phases.phase(1000 / 2000).ratio == "1:1"
    plain = describe_lengthening(gan(), ["generator"], 4, 8, 4)
    assert plain[1] == "phases and learning rates stay as they are"


class Killed(BaseException):
    """Nothing is saved on the way out."""


def test_a_killed_run_with_ada_and_wgan_gp_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe() -> Recipe:
        return gan(
            run={"steps": 9, "save_every": 2, "log_every": 1, "seed": 3},
            objective={"plugin": "wgan_gp", "r1": 0.1},
            augmenter={"plugin": "ada", "images": 200, "start": 0.4},
            generator={"optimizer": {"lr": 2e-4, "schedule": "cosine", "warmup": 0.3}},
            discriminator={
                "optimizer": {"lr": 1e-3, "schedule": "cosine"},
                "normalization": "spectral",
            },
            schedule={"phases": [{"ratio": "1:3"}]},
        )

    silent = Display(Console(quiet=True))
    run(recipe(), tmp_path / "whole", display=silent)
    take_step = Trainer.step

    def dying(self: Trainer, step: int) -> dict:
        if step == 5:
            raise Killed
        return take_step(self, step)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(Killed):
        run(recipe(), tmp_path / "cut", display=silent)
    found = checkpoint.latest(tmp_path / "cut" / "checkpoints")
    assert found is not None and found.step == 4
    monkeypatch.setattr(Trainer, "step", take_step)
    run(recipe(), tmp_path / "cut", resume=True, display=silent)

    manifests, lines = [], []
    for name in ("whole", "cut"):
        latest = checkpoint.latest(tmp_path / name / "checkpoints")
        assert latest is not None
        manifests.append(latest.manifest.files)
        text = (tmp_path / name / "metrics.jsonl").read_text()
        lines.append([json.loads(line) for line in text.splitlines()])
    assert "augmenter.safetensors" in manifests[0] and manifests[0] == manifests[1]
    for whole, cut in zip(*lines, strict=True):
        for key in ("step", "terms", "records", "lr"):
            assert whole[key] == cut[key]
    assert len({line["records"]["ada_p"] for line in lines[0]}) > 2
    for line in lines[0]:  # of networks that waited too
        done = (line["step"] - 1) / 9
        cosine = 1e-3 * (1 + math.cos(math.pi * done)) / 2
        assert line["lr"]["discriminator"] == pytest.approx(cosine)
        assert done >= 0.3 or line["lr"]["generator"] == pytest.approx(2e-4 * done / 0.3)
