"""Each shipped recipe trains with its own parts, on images that need no data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xraygan.recipe.files import shipped
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

#: the plugin whose weights a package brings
AT_HAND = "timm"


def on_the_phantom(name: str, cache: Path) -> Recipe:
    """The recipe on procedural images at 64 x 64, 4 a batch, with random weights for downloads."""
    classes = '["Pneumonia", "Edema", "Hernia"]'
    sets = ["data.plugin=phantom", f"data.classes={classes}", f"data.findings={classes}"]
    sets += ["data.only=[]", "data.images=90", "data.image_size=64", f"data.cache={cache}"]
    sets += ["run.steps=4", "run.batch_size=4", "metrics=false", "evaluation.protocol=official"]
    if load(name, sets).tables.data.limit is not None:
        sets.append("data.limit=4")
    for table, choice in load(name, sets).choices.items():
        if choice.options.get("weights", "random") != "random" and choice.part.name != AT_HAND:
            sets.append(f"{table}.weights=random")
    return load(name, sets)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_takes_steps(name: str, tmp_path: Path) -> None:
    display = Display(quiet=True)
    session = Session.of(on_the_phantom(name, tmp_path / "cache"), display)
    trainer = Trainer(session, RunDirectory(tmp_path / "run"), display)
    for step in range(4):
        values = trainer.step(step)
        assert values and all(torch.isfinite(value).all() for value in values.values())
