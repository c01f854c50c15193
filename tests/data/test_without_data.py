"""Runs whose training data are gone: what generates, exports and explains goes on."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from xraygan import Run, UserError
from xraygan.cli import cli
from xraygan.recipe.loading import load
from xraygan.rundir.conditions import read_conditions
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import restore_session
from xraygan.training.engine import run
from xraygan.utils.progress import Display

SILENT = Display(Console(quiet=True))

CONDITIONAL = """
[run]
steps = 2
batch_size = 4
[data]
plugin = "chestxray14"
image_size = 32
classes = ["Mass", "Edema", "Effusion"]
label_policy = "multi"
metadata = ["age", "sex", "view"]
[generator]
plugin = "cgan"
average = 0.5
[discriminator]
plugin = "cgan"
[objective]
plugin = "minmax"
[classifier]
plugin = "resnet18"
metadata = true
[scores.gram]
extractor = "vgg19"
weight = 0.01
[metrics.auc]
[evaluation]
generated = 4
bootstrap = 0
"""


def chestxray14(root: Path) -> Path:
    """Forty images of twenty patients, laid out as ChestX-ray14, with findings, ages and views."""
    random = np.random.default_rng(0)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"
    rows, lists = [f"{header},View Position"], {"train_val": [], "test": []}
    (root / "images_001" / "images").mkdir(parents=True)
    for i in range(40):
        name, patient = f"{i // 2:08d}_{i % 2:03d}.png", i // 2
        found = [c for c in ("Mass", "Edema", "Effusion") if random.random() < 0.5] or [
            "No Finding"
        ]
        age = [30 + patient % 3, 60][i % 2]
        sex, view = "MF"[patient % 2], ("PA", "AP", "LL")[i % 3]
        rows.append(f"{name},{'|'.join(found)},{i % 2},{patient},{age},{sex},{view}")
        lists["test" if patient % 4 == 3 else "train_val"].append(name)
        pixels = random.integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images_001" / "images" / name)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    for name, files in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(files) + "\n")
    return root


@dataclass(frozen=True)
class Left:
    """A run whose data were deleted, what it generated before, and what it then could read."""

    run: Path
    data: Path
    images: np.ndarray
    conditions: Counter
    card: str


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("left")
    data = chestxray14(folder / "data")
    weights = folder / "weights.safetensors"
    save_file(torchvision.models.resnet18().state_dict(), weights)
    (folder / "gan.toml").write_text(CONDITIONAL)
    given = [f"data.root={data}", f"data.cache={folder / 'cache'}"]
    given += [f"classifier.weights={weights}", "extractors.vgg19.weights=random"]
    out = folder / "run"
    run(load(folder / "gan.toml", given), out, display=SILENT)
    session = restore_session(out, (), SILENT)[0]
    train = session.data.splits["train"]
    rows = torch.cat(
        [torch.from_numpy(train.label_matrix).float(), train.encoded(session.graph.task.metadata)],
        1,
    )
    images = Run(out).generate(20, seed=3)
    made = CliRunner().invoke(
        cli, ["export", str(out), "--format", "safetensors", "--out", str(folder / "before")]
    )
    assert made.exit_code == 0, made.output
    card = (folder / "before" / "README.md").read_text()
    for path in (data, folder / "cache"):
        shutil.rmtree(path)
    weights.unlink()
    return Left(out, data, images, Counter(map(tuple, rows.tolist())), card)


def invoke(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if code:
        assert isinstance(done.exception, UserError), done.output
        return str(done.exception)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_images_are_generated_without_the_data_to_the_same_bits(left: Left, tmp_path: Path) -> None:
    words = ("--count", 20, "--seed", 3, "--out", tmp_path / "made", "--set", "run.device=cpu")
    invoke("generate", left.run, *words)
    for i, image in enumerate(left.images):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "made" / f"{i:06d}.png")), image)
    assert len(np.unique(left.images, axis=0)) > 10
    assert np.array_equal(Run(left.run).generate(20, seed=3), left.images)
    words = ("--class", "Mass", "--metadata", "age=60", "--out", tmp_path / "asked")
    invoke("generate", left.run, "--count", 3, *words)


def test_networks_are_exported_without_the_data(left: Left, tmp_path: Path) -> None:
    invoke("export", left.run, "--format", "safetensors", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == left.card
    assert "| images | 30 | 10 |" in left.card


def test_latents_are_explained_without_the_data(left: Left, tmp_path: Path) -> None:
    said = invoke("explain", left.run, "--images", 1, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"latents.png", "classes.png"}
    for name in ("grad_cam", "neighbours"):
        reason = f"because it shows real images, and their folder {left.data}"
        assert f"{name}: left out, {reason}" in said


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_what_measures_asks_for_the_data(left: Left, command: str) -> None:
    said = invoke(command, left.run, "--set", "classifier.weights=random", code=2)
    assert str(left.data) in said


def test_conditions_are_those_of_the_training_images_and_name_none(left: Left) -> None:
    task = restore_session(left.run, (), SILENT, measure=False)[0].graph.task
    place = RunDirectory(left.run)
    found = read_conditions(place, task)
    rows = torch.cat([found.labels.float(), found.metadata], dim=1)
    assert Counter(map(tuple, rows.tolist())) == left.conditions
    table = pd.read_csv(place.conditions)
    names = [f"label:{name}" for name in task.classes]
    assert list(table.columns) == [*names, "age", "sex", "view", "images"]
    pd.testing.assert_frame_equal(table, table.sort_values([*names, "age"], kind="stable"))
    assert table["images"].sum() == 30 > len(table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "damaged"),
        (lambda text: text.replace("age", "agee"), "expected the columns label:Mass"),
        (
            lambda text: text.replace("\n0,", "\n2,", 1),
            "line 2, column 'label:Mass'",
        ),
        (
            lambda text: text[: text.rindex("\n", 0, -1) + 1],
            "differ from those of environment.json",
        ),
        (
            lambda text: re.sub(r",\d+\n", ",99999999999\n", text),
            "from 1 to 10,000,000",
        ),
        (lambda text: re.sub(r",\d+\n", ",-1\n", text), "line 2, column 'images'"),
        (lambda text: re.sub(r",\d+\n", ",9999999999999999999999\n", text), "damaged"),
        (lambda text: text + "," * 5000 + "\n", "damaged"),
    ],
)
def test_damaged_conditions_are_one_message(
    left: Left, change: Callable[[str], str], says: str, tmp_path: Path
) -> None:
    out = shutil.copytree(left.run, tmp_path / "run")
    path = out / "conditions.csv"
    path.write_text(change(path.read_text()))
    said = invoke("generate", out, "--count", 1, "--out", tmp_path / "made", code=2)
    assert str(path) in said and says in said and "remove it" in said
    assert not (tmp_path / "made").exists()


def test_a_run_of_an_earlier_version_asks_for_its_data(left: Left, tmp_path: Path) -> None:
    out = shutil.copytree(left.run, tmp_path / "run")
    (out / "conditions.csv").unlink()
    said = invoke("generate", out, "--count", 1, "--out", tmp_path / "made", code=2)
    assert "an earlier version made this run" in said and str(left.data) in said
    # A class and metadata that are asked for leave nothing to be read.
    words = ("--class", "Mass", "--metadata", "sex=F", "--out", tmp_path / "made")
    invoke("generate", out, "--count", 1, *words)
    # With its data it makes the images that it always made, of the data's own order.
    shutil.rmtree(tmp_path / "made")
    data = chestxray14(tmp_path / "data")
    invoke("generate", out, "--count", 1, "--out", tmp_path / "made", "--set", f"data.root={data}")
    (out / "environment.json").unlink()
    shutil.rmtree(tmp_path / "made")
    invoke("generate", out, "--count", 1, "--out", tmp_path / "made", "--set", f"data.root={data}")


@pytest.mark.parametrize("command", ["generate", "export", "evaluate", "audit", "explain"])
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("discriminator.spectral_normm=true", "unknown option"),
        ("data.image_size=64", "data.image_size: 32 there, 64 now"),
        ('data.classes=["Mass", "Edema"]', "data.classes: ['Mass', 'Edema', 'Effusion'] there"),
        ("data.label_policy=single", "data.label_policy: multi there, single now"),
        ("classifier.metadata=false", "classifier.metadata: True there, False now"),
        ("classifier.plugin=resnet50", "classifier.plugin: resnet18 there, resnet50 now"),
    ],
)
def test_keys_that_the_networks_depend_on_cannot_be_set(
    command: str, override: str, says: str, left: Left, tmp_path: Path
) -> None:
    words = ["--set", override, "--set", "classifier.weights=random"]
    if command in ("generate", "export", "explain"):
        words += ["--out", str(tmp_path / "out")]
    words += ["--count", "1"] * (command == "generate")
    said = invoke(command, left.run, *words, code=2)
    assert says in said
    assert not (tmp_path / "out").exists()
