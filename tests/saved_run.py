"""Runs that have saved networks without training them, and the command line over them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xraygan.cli import main
from xraygan.evaluation.evaluation import evaluate
from xraygan.recipe.loading import load
from xraygan.rundir.checkpoint import save
from xraygan.rundir.conditions import write_conditions
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.utils.atomic_files import write_json
from xraygan.utils.progress import Display

DATA = """
[run]
steps = 1
batch_size = 4
[data]
plugin = "phantom"
images = 48
image_size = 32
test_fraction = 0.4
classes = ["No Finding", "Edema", "Mass"]
findings = ["No Finding", "Edema", "Mass"]
metadata = ["age"]
[metrics.auc]
[evaluation]
generated = 4
bootstrap = 20
"""
CLASSIFIER = '[classifier]\nplugin = "resnet18"\naverage = 0.5\n'


def gan(plugin: str, average: float = 0.0) -> str:
    return f"""
[generator]
plugin = "{plugin}"
average = {average}
[discriminator]
plugin = "{plugin}"
[objective]
plugin = "minmax"
"""


def saved(folder: Path, *tables: str) -> Path:
    """A run of these tables that has saved its networks, untrained, and evaluated them.

    Those in folders beside each other share their image store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(DATA + "".join(tables), encoding="utf-8")
    recipe = load(folder / "recipe.toml", [f"data.cache={folder.parent / 'cache'}"])
    place = RunDirectory(folder / "run")
    place.create(recipe)
    session = Session.of(recipe, Display(quiet=True))
    for name in session.graph.ema:
        for parameter in session.graph.networks[name].parameters():
            parameter.data.mul_(1.5)  # from where the average still is
    save(place.checkpoints, 1, session.graph)
    place.write_environment(recipe, session.device, session.data.summary())
    write_conditions(place, session.data.splits["train"], session.graph)
    write_json(place.evaluation, evaluate(session.evaluation(), 1)[0])
    return place.path


def xraygan(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What the command line prints, or says where it stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["xraygan", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.err if code else said.out
