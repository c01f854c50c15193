"""The digests that a run records of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from own_data import SILENT

from xraygan.cli.evaluate import _evaluate_run
from xraygan.recipe.loading import load
from xraygan.training.engine import run

SMALL = [
    "run.steps=4", "run.batch_size=4", "run.save_every=2", "data.plugin=phantom", "data.images=60",
    "data.image_size=32", "data.classes=['Cardiomegaly', 'Effusion', 'Edema']",
    "classifier.plugin=resnet18", "classifier.weights=random", "evaluation.bootstrap=20",
]  # fmt: skip


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_finished_run_records_the_digests_of_its_files(tmp_path: Path) -> None:
    """Also of the checkpoint that a later evaluation measures, which need not be the last one."""
    place = run(load("baseline_resnet50", SMALL), tmp_path / "run", display=SILENT).path
    last, former = (f"checkpoints/step-{step:08d}/manifest.json" for step in (4, 2))
    finished = json.loads((place / "environment.json").read_text())["finished"]
    of_run = {name: digest(place / name) for name in ("recipe.toml", "metrics.jsonl", last)}
    assert finished["sha256"] == of_run
    measured = {name: digest(place / name) for name in ("predictions.csv", "bootstrap.csv")}
    content = json.loads((place / "evaluation.json").read_text())
    assert content["sha256"] == measured | {last: of_run[last]}
    _evaluate_run(place, "2", (), quiet=True)
    content = json.loads((place / "evaluation.json").read_text())
    assert content["sha256"].keys() == {"predictions.csv", "bootstrap.csv", former}
    assert all(content["sha256"][name] == digest(place / name) for name in content["sha256"])
    assert json.loads((place / "environment.json").read_text())["finished"] == finished
