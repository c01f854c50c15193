"""A run that is killed and resumed, beside one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

from xraygan.recipe.loading import Recipe
from xraygan.rundir import checkpoint
from xraygan.training import engine
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display


def digests_of_both(
    recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, *, at: int = 2
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The digests of the last checkpoint's files, of a run that trains in one go, and of one that
    is killed before it takes step ``at`` and resumed. Nothing is drawn or measured at the end."""
    monkeypatch.setattr(engine, "finalize", lambda *of, **how: None)
    silent = Display(quiet=True)
    engine.run(recipe, folder / "whole", display=silent)

    class Killed(BaseException):
        pass

    take_step = Trainer.step

    def killed(self: Trainer, step: int) -> dict[str, Tensor]:
        if step == at:
            raise Killed
        return take_step(self, step)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(Killed):
        engine.run(recipe, folder / "killed", display=silent)
    monkeypatch.setattr(Trainer, "step", take_step)
    engine.run(recipe, folder / "killed", resume=True, display=silent)

    found = [checkpoint.latest(folder / d / "checkpoints") for d in ("whole", "killed")]
    whole, resumed = (one.manifest.files for one in found if one is not None)
    return whole, resumed
