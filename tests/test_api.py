"""The toolkit from Python."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL
from forked import xraygan
from nbclient import NotebookClient
from PIL import Image

import xraygan as package
from xraygan import Recipe, Run, UserError, run

EXAMPLES = Path(__file__).parents[1] / "examples"
GIVEN = (
    *SMALL,
    "classifier.weights=random",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]',
    "run.steps=3",
    "run.save_every=1",
    "run.keep=0",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("api") / "run"
    return run(Recipe.load("ucgan_full", *GIVEN), out, quiet=True)


def test_its_frames_hold_what_its_files_hold(done: Run) -> None:
    lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    metrics = done.metrics
    assert metrics.index.tolist() == [1, 2, 3] and metrics.index.name == "step"
    for line in lines:
        for term, value in line["terms"].items():
            assert metrics.loc[line["step"], term] == value
    written = json.loads((done.path / "evaluation.json").read_text())["metrics"]
    evaluation = done.evaluation
    assert list(evaluation.index) == list(written)
    accuracy = evaluation.loc["accuracy"]
    assert accuracy["value"] == written["accuracy"]["value"]
    assert [accuracy["low"], accuracy["high"]] == written["accuracy"]["interval"]
    predictions = done.predictions
    assert len(predictions) == accuracy["n"]
    assert predictions["patient"].map(type).eq(str).all()
    assert done.report.is_file()


def test_its_images_are_those_of_the_command_line(done: Run, tmp_path: Path) -> None:
    images = done.generate(5, seed=3)
    assert images.shape == (5, 32, 32) and images.dtype == np.uint8
    xraygan("generate", done.path, "--count", "5", "--seed", "3", "--out", tmp_path / "made")
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, Image.open(tmp_path / "made" / f"{i:06d}.png"))
    table = pd.read_csv(tmp_path / "made" / "generated.csv")
    likeliest = table[[f"p:{name}" for name in done.classes]].to_numpy().argmax(axis=1)
    assert list(table["label"]) == [done.classes[column] for column in likeliest]
    wanted = done.classes[int(likeliest[0])]
    assert done.generate(2, class_=wanted).shape == (2, 32, 32)
    with pytest.raises(UserError, match="no class is named 'Edemma'; did you mean 'Edema'"):
        done.generate(1, class_="Edemma")


def test_its_networks_are_those_of_the_checkpoint(done: Run) -> None:
    from safetensors.torch import load_file

    first = Run(done.path, checkpoint=1)
    for opened, step in ((done, 3), (first, 1)):
        kept = load_file(done.path / f"checkpoints/step-{step:08d}/generator.safetensors")
        state = opened.networks["generator"].state_dict()
        assert all(torch.equal(value, kept[key]) for key, value in state.items())
    generator = done.networks["generator"]
    assert not generator.training
    with torch.no_grad():
        assert generator(torch.randn(2, generator.latent_size)).shape == (2, 1, 32, 32)


def test_what_is_not_there_is_said(done: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        Run(tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        run(Recipe.load("ucgan_full", *GIVEN), done.path, quiet=True)
    with pytest.raises(UserError, match=r"batch_sizze.*did you mean 'batch_size'"):
        Recipe.load("ucgan_full", "run.batch_sizze=3")
    (tmp_path / "recipe.toml").write_text((done.path / "recipe.toml").read_text())
    with pytest.raises(UserError, match=r"no evaluation\.json"):
        _ = Run(tmp_path).evaluation


def test_the_package_names_what_it_has() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGAN_OUT", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "python_api.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # nothing of a machine in it
    NotebookClient(notebook, timeout=300).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [o for cell in outputs for o in cell if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    assert (tmp_path / "notebook" / "report.html").is_file()
