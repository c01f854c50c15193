"""Each shipped recipe trains with its own parts, on images that need no data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shipped_recipes import on_the_phantom

from xraygan.recipe.files import shipped
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_takes_steps(name: str, tmp_path: Path) -> None:
    display = Display(quiet=True)
    session = Session.of(on_the_phantom(name, tmp_path / "cache"), display)
    trainer = Trainer(session, RunDirectory(tmp_path / "run"), display)
    for step in range(4):
        values = trainer.step(step)
        assert values and all(torch.isfinite(value).all() for value in values.values())
