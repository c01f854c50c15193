"""Bad images: each is named with the reason, or left out and listed; nothing else is said."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from malformed import WHOLE, refused
from malformed_images import BAD, NOISE, write_bad
from PIL import Image
from rich.console import Console

from xraygan import UserError
from xraygan.data.datamodule import prepare
from xraygan.data.images import read_grey
from xraygan.recipe.loading import Recipe, load
from xraygan.training.engine import run
from xraygan.utils.progress import Display


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_bad(folder)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_with_the_reason(
    name: str, bad: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("error")
        read_grey(bad / name, 16)
    text = str(caught.value)
    assert text.startswith(f"{bad / name}: ")
    assert BAD[name][1] in text, text
    assert "\n" not in text and "object at" not in text
    assert not caplog.records and capfd.readouterr() == ("", "")


#: EXIF's orientation -> how a camera that was held so stores an upright picture
LYING = {
    1: lambda up: up,
    2: np.fliplr,
    3: lambda up: np.rot90(up, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda up: np.rot90(up, 1),
    7: lambda up: np.rot90(up, 2).T,
    8: lambda up: np.rot90(up, -1),
}


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("form", ["jpeg", "png", "tif", "webp"])
def test_a_picture_that_lies_on_its_side_is_turned_upright(
    form: str, orientation: int, tmp_path: Path
) -> None:
    upright = np.add.outer(7 * np.arange(16), 5 * np.arange(24)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"jpeg": {"quality": 100}, "webp": {"lossless": True}}.get(form, {})
    lying = np.ascontiguousarray(LYING[orientation](upright))
    Image.fromarray(lying).save(tmp_path / f"a.{form}", exif=exif, **how)
    expected = Image.fromarray(upright).resize((16, 16), Image.Resampling.BILINEAR)
    found = read_grey(tmp_path / f"a.{form}", 16).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= 3


# -- left out, or not ------------------------------------------------------------------------------

#: one of every kind; the others would take long
SOME = {k: v for k, v in BAD.items() if not k.endswith(".dcm") or k in ("cut.dcm", "lossless.dcm")}
GONE = ("missing.png", "empty.png", "circle.png")
RECIPE = (
    WHOLE.replace('"phantom"', '"csv"\nroot = "own"\ncache = "cache"')
    .replace("images = 60\n", "")
    .replace('classes = ["Edema", "Mass"]\n', "")
)


@pytest.fixture
def own(tmp_path: Path, bad: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Twelve images that are well and some that are bad, in a table."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    rows = ["path,label,patient,split"]
    for i in range(12):
        Image.fromarray(NOISE).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},p{i},{('train', 'test')[i // 8]}")
    for name in SOME:
        if os.path.lexists(bad / name):
            (bad / name).rename(folder / name)
        rows.append(f"{name},a,{name},train")
    (folder / "images.csv").write_text("\n".join(rows))
    (tmp_path / "own.toml").write_text(RECIPE)
    yield folder
    for name in SOME:
        if os.path.lexists(folder / name):
            (folder / name).rename(bad / name)


def recipe(own: Path, *overrides: str) -> Recipe:
    return load(own.parent / "own.toml", overrides)


def test_bad_images_are_left_out_and_listed_in_the_run(own: Path) -> None:
    place = run(
        recipe(own, "data.on_bad_image=skip"), own.parent / "run", display=Display(Console())
    )
    said = json.loads(place.environment.read_text())["dataset"]
    assert said["images"] == {"train": 8, "test": 4}
    assert sorted(said["skipped"]) == sorted(SOME)
    for name, reason in said["skipped"].items():
        assert BAD[name][1] in reason
    log = place.log.read_text()
    assert f"{len(SOME)} of {len(SOME) + 12} images cannot be read and are left out" in log


def test_bad_images_stop_a_run(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "empty.png").unlink()
    table = own / "images.csv"
    # Those that are not there are said before the others are decoded.
    said = refused(capsys, "data", "prepare", "own.toml")
    assert f"3 of {12 + len(SOME)} images cannot be read:" in said
    assert all(name in said for name in GONE) and "data.on_bad_image" in said
    lines = [line for line in table.read_text().splitlines() if not line.startswith(GONE)]
    table.write_text("\n".join(lines))
    said = refused(capsys, "data", "prepare", "own.toml")
    assert f"{len(SOME) - 3} of {9 + len(SOME)} images cannot be read:" in said
    assert f"and {len(SOME) - 8} more" in said and "data.on_bad_image" in said
    (own / "empty.png").touch()


def test_a_class_of_which_nothing_can_be_read(own: Path) -> None:
    for i in range(1, 8, 2):
        (own / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prepare(recipe(own, "data.on_bad_image=skip", "run.batch_size=2"))
    assert "no training image is of class 'b': 4 are, and none of them can be read" in str(
        caught.value
    )
    with pytest.raises(
        UserError, match=r"batch_size is 5, but only 4 training images.*\n.* are left"
    ):
        prepare(recipe(own, "data.on_bad_image=skip", "run.batch_size=5"))


def test_an_image_that_can_be_read_later_is(own: Path) -> None:
    """Its file is the same, and the store was written without it."""
    file = own / "3.png"
    whole, about = file.read_bytes(), file.stat()
    file.write_bytes(bytes(len(whole)))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    skip = recipe(own, "data.on_bad_image=skip")
    assert "3.png" in prepare(skip).store.bad
    file.write_bytes(whole)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    data = prepare(skip)
    assert len(data.splits["train"]) == 8
    assert "3.png" not in data.store.bad
    assert prepare(skip).store.seconds is None
