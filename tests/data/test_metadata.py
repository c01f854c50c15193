"""Age, sex and view: numbers, and who is told of them."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import SMALL
from PIL import Image
from rich.console import Console
from torch import Tensor

from xraygan import Run, UserError, run
from xraygan.cli import cli
from xraygan.data import metadata
from xraygan.data.datamodule import prepare
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

TOLD = ("age", "sex", "view")
GIVEN = (
    *(word for word in SMALL if ".width" not in word),
    "generator.plugin=cgan",
    "discriminator.plugin=cgan",
    "classifier.weights=random",
    "classifier.metadata=true",
    'data.metadata=["age", "sex", "view"]',
    "scores.style_transfer.width=4",
    "run.steps=2",
)


def recipe(*overrides: str) -> Recipe:
    return load("ucgan_full", [*GIVEN, *overrides])


def test_numbers_and_their_codes() -> None:
    rows = pd.DataFrame({"age": [75, math.nan], "sex": ["F", ""], "view": ["PA", "lateral"]})
    found = {
        name: torch.from_numpy(values) for name, values in metadata.metadata_columns(rows).items()
    }
    one, unknown = metadata.encode(found, ("age", "sex", "view"), 2).tolist()
    assert one == [1, 1, -1, 1, 1, 1] and unknown == [0] * 6
    assert metadata.encode({}, ("sex",), 2).tolist() == [[0, 0], [0, 0]]
    asked = {"age": "75", "sex": "F", "view": "PA"}
    assert metadata.parse_metadata(asked, TOLD).tolist() == [one]
    assert metadata.parse_metadata({"sex": "M"}, TOLD).tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"age": "old"}, "age: expected years from 0 to 150, found 'old'"),
        ({"age": math.nan}, "expected years from 0 to 150"),
        ({"sex": "f"}, "sex: 'f'; "),
        ({"weight": 60}, "'weight': the run's networks read age, sex, view"),
    ],
)
def test_what_cannot_be_asked_for(asked: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        metadata.parse_metadata(asked, TOLD)


@pytest.mark.parametrize("policy", ["single", "multi"])
def test_who_is_told_what(tmp_path: Path, policy: str) -> None:
    """Every network is told the same of an image; a generated one has a real image's metadata."""
    silent = Display(Console(quiet=True))
    none = ("inception", "style_transfer")  # the second asks the classifier of other images too
    given = [f"data.label_policy={policy}", *(f"scores.{name}=false" for name in none)]
    chosen = recipe(*given, 'schedule.phases=[{ratio="1:1"}]')
    session = Session.of(chosen, silent)
    told: dict[str, list[Tensor]] = {}

    def listen(name: str) -> Any:
        def heard(module: Any, inputs: tuple[Tensor, ...]) -> None:
            told.setdefault(name, []).append(inputs[1])

        return heard

    for name in ("generator", "discriminator", "classifier"):
        session.graph.networks[name].register_forward_pre_hook(listen(name))
    loop = Trainer(session, RunDirectory(tmp_path / "run"), silent)
    loop.step(0)
    k = len(session.data.task.classes)
    split = session.data.splits["train"]
    rows = loop.source.batches.indices(0)
    real = split.encoded(TOLD)[rows]
    assert real.unique(dim=0).shape[0] > 1
    [asked] = told["generator"]
    heard = {name: [c[:, -6:] for c in told[name]] for name in told}
    for name in ("discriminator", "classifier"):
        assert any(torch.equal(c, real) for c in heard[name])
        assert any(torch.equal(c, asked[:, -6:]) for c in heard[name])
        assert len(heard[name]) == 2
    by_row = sorted(map(tuple, real.tolist()))
    assert sorted(map(tuple, asked[:, -6:].tolist())) == by_row
    if policy == "multi":  # labels and metadata of one image stay together
        whole = torch.cat([torch.from_numpy(split.label_matrix)[rows].float(), real], dim=1)
        assert sorted(map(tuple, asked.tolist())) == sorted(map(tuple, whole.tolist()))
    assert asked.shape == (len(rows), k + 6)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(recipe(), tmp_path_factory.mktemp("metadata") / "run", quiet=True)


def test_a_run_makes_what_is_asked_for(done: Run) -> None:
    every = [done.generate(3, metadata=asked) for asked in (None, {"age": 20}, {"age": 80})]
    assert not any(np.array_equal(a, b) for a, b in pairwise(every))
    again = done.generate(3, metadata={"age": 80})
    np.testing.assert_array_equal(again, every[2])
    with pytest.raises(UserError, match="age: expected years"):
        done.generate(3, metadata={"age": -1})


def test_the_classifier_is_told_of_test_patients(done: Run) -> None:
    """Probabilities of the test images depend on their patients' metadata."""
    evaluation = done._session.evaluation()
    images = evaluation.test.images
    told = evaluation.test.encoded(TOLD)
    _, with_it = evaluation.classify(images, told, real=True)
    _, without = evaluation.classify(images, real=True)
    np.testing.assert_allclose(evaluation.probs, with_it)
    assert np.abs(with_it - without).max() > 1e-3


def test_metadata_needs_a_table_and_a_reader() -> None:
    silent = Display(Console(quiet=True))
    with pytest.raises(UserError, match=r"\[classifier\].*\[data\] metadata is empty"):
        Session.of(recipe("data.metadata=[]"), silent)
    unconditional = load("ucgan_full", [*SMALL, "classifier.weights=random"])
    from xraygan.session.sampling import sample_images

    session = Session.of(unconditional, silent)
    with pytest.raises(UserError, match="generator is unconditional"):
        sample_images(session, 1, None, 0, silent, {"age": 60})


def own(root: Path, ages: list[str], sexes: list[str]) -> list[str]:
    """A folder of images with these ages and sexes, test images after the first ten; its keys."""
    (root / "own").mkdir()
    lines = ["path,label,patient,split,age,sex"]
    for i, (age, sex) in enumerate(zip(ages, sexes, strict=True)):
        Image.new("L", (20, 20), 10 * i).save(root / f"own/{i}.png")
        split = "test" if i >= 10 else "train"
        lines.append(f"{i}.png,{'Edema' if i % 2 else 'Mass'},p{i},{split},{age},{sex}")
    (root / "own/images.csv").write_text("\n".join(lines), encoding="utf-8")
    keys = ["plugin=csv", f"root={root / 'own'}", 'classes=["Edema", "Mass"]', "image_size=32"]
    return [*(f"data.{key}" for key in keys), "run.batch_size=2", "classifier.weights=random"]


def test_metadata_that_no_training_image_has_is_refused(tmp_path: Path) -> None:
    """Test images alone have an age here. A run that was trained all the same can be measured."""
    sets = own(tmp_path, [""] * 10 + ["50"] * 4, ["M", "F"] * 7)
    told = [*sets, "data.age=age", "data.sex=sex", 'data.metadata=["sex", "age"]']
    said = r"\[data\] metadata: the dataset 'csv' knows the age of none of its 10 training images"
    with pytest.raises(UserError, match=said):
        prepare(load("baseline_resnet50", told))
    with pytest.raises(UserError, match="the sex of none of its 10"):
        prepare(load("baseline_resnet50", [*sets, 'data.metadata=["sex"]']))  # no column is named
    with pytest.raises(UserError, match=said):
        words = [word for text in told for word in ("--set", text)]
        CliRunner().invoke(cli, ["check", "baseline_resnet50", *words], catch_exceptions=False)
    assert prepare(load("baseline_resnet50", told), training=False).known == {}


def test_metadata_that_some_have_is_counted(tmp_path: Path) -> None:
    sets = own(tmp_path, ["40", ""] * 7, ["F"] * 14)
    told = [*sets, "data.age=age", "data.sex=sex", 'data.metadata=["age", "sex"]']
    data = prepare(load("baseline_resnet50", told))
    assert data.summary()["metadata"] == {"age": 5, "sex": 10}
    assert "the age is known for 5 of 10 training images" in data.warnings
    assert not any("the sex is known for" in warning for warning in data.warnings)
    assert any("the sex is the same in all training images" in text for text in data.warnings)
    assert prepare(load("baseline_resnet50", sets)).summary()["metadata"] == {}
