"""Data that changed after a run was trained: who says so, and what is kept of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_data import SILENT, contents, csv, edit, environment, own_data
from saved_run import xraygan

from xraygan.data.datamodule import prepare
from xraygan.recipe.loading import load
from xraygan.report.descriptions import protocol
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.image_record import FIELDS, ImageRecord
from xraygan.rundir.reader import RunFiles
from xraygan.training.engine import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of its own, beside them."""
    folder = tmp_path_factory.mktemp("trained")
    root = own_data(folder / "data")
    run(csv(root, steps=2), folder / "run", display=SILENT)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run and its images; the images are where the copied recipe does not look."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def move_three(root: Path) -> None:
    for patient in ("p1", "p2", "p3"):
        edit(f",{patient},train", f",{patient},test")(root)


def copy_under_another_name(root: Path) -> None:
    """Two training images stand in the test list once more, with other names and patients."""
    for number in (1, 2):
        shutil.copy(root / f"images/{number:02}.png", root / f"images/copy-{number}.png")
        with (root / "images.csv").open("a") as table:
            table.write(f"images/copy-{number}.png,Edema,q{number},test\n")


@pytest.mark.parametrize("command", ["evaluate", "audit", "explain"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (move_three, "trained on 3 of the 13 images that would be measured, 'images/0"),
        (
            copy_under_another_name,
            "trained on 2 of the 12 images that would be measured, 'images/c",
        ),
    ],
)
def test_training_images_in_the_test_list_are_counted_and_refused(
    change: Callable[[Path], None],
    said: str,
    command: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(place.parent / "data")
    before = contents(place)
    found = xraygan(capsys, command, place, "--set", f"data.root={place.parent}/data", code=2)
    assert said in found and "because the data were changed after the run was trained" in found
    assert contents(place) == before
    out = place.parent / "made"
    xraygan(capsys, "generate", place, "--count", 2, "--out", out)  # which needs none of them
    assert len(list(out.iterdir())) == 3


def test_a_training_image_that_was_a_test_image_too_is_not_held_against_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run was measured on a copy of a training image from the beginning."""
    root = place.parent / "data"
    shutil.copy(root / "images/01.png", root / "images/00.png")
    shutil.rmtree(place)
    run(csv(root, steps=2), place, display=SILENT)
    edit(",p38,", ",p39,")(root)
    xraygan(capsys, "evaluate", place)
    content = json.loads((place / "evaluation.json").read_text())
    assert content["protocol"]["data_differs"][0].startswith("images of other patients: 1 (")


def test_what_is_measured_says_of_which_data_and_the_trail_is_kept(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, began = place.parent / "data", environment(place)["dataset"]["fingerprint"]
    shutil.copy(root / "images/01.png", root / "images/00.png")  # no training image by its name
    shutil.copy(root / "images/04.png", root / "images/01.png")
    edit(",p0,test", ",p0,train")(root)
    words = ("--set", f"data.root={root}")
    lines = [
        "images replaced under their names: 2 (",
        "test images that are training images now: 1 ('images/00.png' the first)",
    ]
    for command, extra in (("evaluate", ()), ("audit", ("--generated", 8))):
        xraygan(capsys, command, place, *words, *extra)
    xraygan(capsys, "explain", place, *words, "--images", 1)
    evaluated, audited = (
        json.loads((place / name).read_text()) for name in ("evaluation.json", "audit.json")
    )
    for found in (evaluated["protocol"], audited["protocol"]):
        assert found["trained_on_fingerprint"] == began != found["fingerprint"]
        for line in lines:
            assert any(each.startswith(line) for each in found["data_differs"])
    assert any(lines[1] in note for note in audited["notes"])
    now = environment(place)
    assert now["dataset"]["fingerprint"] == began
    assert [entry["fingerprint"] for entry in now["used"]] == [
        evaluated["protocol"]["fingerprint"]
    ] * 2
    assert all(entry["differs"] == evaluated["protocol"]["data_differs"] for entry in now["used"])
    xraygan(capsys, "export", place, "--format", "safetensors")
    card = (place / "export/README.md").read_text()
    assert f"Measured on other data than the run was trained on: {lines[0]}" in card
    assert f"It was made with other images than the training images: {lines[0]}" in card
    assert f"other data than the run was trained on: {lines[0]}" in protocol(RunFiles(place))
    xraygan(capsys, "evaluate", place, "--set", f"data.root={root}")
    assert environment(place)["dataset"]["fingerprint"] == began


def test_a_record_is_small_and_names_nobody(trained: Path, tmp_path: Path) -> None:
    found = ImageRecord.read(RunDirectory(trained / "run"))
    assert found is not None and len(found.path) == 40
    assert (np.diff(found.path) > 0).all()  # so the order of the table is not kept
    assert sum(np.dtype(kind).itemsize for kind in FIELDS.values()) == 25  # bytes an image
    content = (trained / "run/images.safetensors").read_bytes()
    assert len(content) < 40 * 25 + 800
    assert not any(word in content for word in (b"images/", b".png", b"p1", b"Edema"))


def test_a_record_is_the_same_for_the_same_images_with_other_times(place: Path) -> None:
    for path in (place.parent / "data/images").iterdir():
        path.touch()
    recipe = load(place / "recipe.toml", [f"data.root={place.parent}/data"])
    now, paths = ImageRecord.of(prepare(recipe))
    then = ImageRecord.read(RunDirectory(place))
    assert then is not None and len(paths) == 40
    assert all(np.array_equal(getattr(now, name), getattr(then, name)) for name in FIELDS)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 4000])
def test_a_damaged_record_is_one_message(
    damage: bytes, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "images.safetensors").write_bytes(damage)
    move_three(place.parent / "data")
    said = xraygan(capsys, "evaluate", place, "--set", f"data.root={place.parent}/data", code=2)
    assert "images.safetensors: damaged" in said and "remove it to continue without" in said


def test_of_a_run_that_recorded_no_images_counts_are_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "images.safetensors").unlink()
    move_three(place.parent / "data")
    xraygan(capsys, "evaluate", place, "--set", f"data.root={place.parent}/data")
    found = json.loads((place / "evaluation.json").read_text())["protocol"]["data_differs"]
    assert "test images: 10 there, 13 now" in found
