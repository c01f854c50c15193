"""Ranges of grey: `data.grey`, files whose values use few of their bits, and what is said."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import real_data
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import WHOLE
from malformed_images import dicom, lut, png
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import apply_voi_lut
from rich.console import Console
from tiffs import FLOAT, tiff

from xraygan import UserError
from xraygan.cli import cli
from xraygan.data.greys import Grey, find_doubt, grey_context, own_range
from xraygan.data.images import read_grey
from xraygan.recipe.loading import load
from xraygan.training.engine import run
from xraygan.utils.progress import Display

RANDOM = np.random.default_rng(0)
TWELVE = RANDOM.integers(0, 4096, (64, 64), dtype=np.uint16)  # as a detector of 12 bits
TWELVE[0, :4] = (0, 0, 4095, 4095)
BYTES = RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)


def in_range(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A pixel after another, in float64: 0 to 255, not rounded."""
    greys = np.zeros(values.shape)
    for at, value in np.ndenumerate(values):
        greys[at] = 255 * min(max((float(value) - low) / (high - low), 0.0), 1.0)
    return greys


def range_of(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest but for 0.05 % at either end, at least one."""
    ordered = sorted(values.ravel().tolist())
    out = max(1, math.ceil(0.0005 * len(ordered)))
    return ordered[out], ordered[-1 - out]


def read(path: Path, grey: Grey = "full") -> tuple[np.ndarray, set[str]]:
    """At its own size, and what is doubtful of it."""
    with grey_context(grey) as found:
        return read_grey(path, 64), found.doubts


# -- files of more than 8 bits ---------------------------------------------------------------------


def twelve_bit_jp2(path: Path) -> None:
    """Pillow writes 8 or 16 bits alone: 16 that hold the same numbers, with 12 declared."""
    stream = BytesIO()
    shifted = (TWELVE.astype(np.int32) - 2**11 + 2**15).astype(np.uint16)  # of the level shift
    Image.fromarray(shifted).save(stream, "JPEG2000", no_jp2=path.suffix == ".j2k")
    content = bytearray(stream.getvalue())
    content[content.index(b"\xff\x4f\xff\x51") + 42] = 12 - 1
    path.write_bytes(content)


def pgm(path: Path, white: int = 4095) -> None:
    path.write_bytes(b"P5 64 64 %d\n" % white + TWELVE.astype(">u2").tobytes())


#: file name -> what writes 12-bit values into a file that says they are of 12 bits
SAID: dict[str, Any] = {
    "a.tif": lambda path: tiff(path, TWELVE, 12),
    "a.pgm": pgm,
    "a.jp2": twelve_bit_jp2,
    "a.j2k": twelve_bit_jp2,
    "window.dcm": lambda path: dicom(
        path, TWELVE, BitsStored=12, WindowCenter=2048, WindowWidth=4096
    ),
    "a.dcm": lambda path: dicom(path, TWELVE, BitsStored=12),
}

#: and into one that says they are of 16
UNSAID: dict[str, Any] = {
    "a.png": lambda path: Image.fromarray(TWELVE).save(path),
    "a.tif": lambda path: tiff(path, TWELVE, 16),
    "big_endian.tif": lambda path: tiff(path, TWELVE, 16, order=">"),
    "a.jp2": lambda path: Image.fromarray(TWELVE).save(path),
    "a.pgm": lambda path: pgm(path, 65535),
    "32bit.tif": lambda path: Image.fromarray(TWELVE.astype(np.int32)).save(path),
}


@pytest.mark.parametrize("name", SAID)
def test_white_is_that_of_the_bits_that_the_file_says(name: str, tmp_path: Path) -> None:
    SAID[name](tmp_path / name)
    pixels, doubts = read(tmp_path / name)
    assert np.abs(pixels - in_range(TWELVE, 0, 4095)).max() <= 0.51
    assert not doubts
    pixels, _ = read(tmp_path / name, (1000, 3000))
    assert np.abs(pixels - in_range(TWELVE, 1000, 3000)).max() <= (0.75 if "pgm" in name else 0.51)


@pytest.mark.parametrize("name", UNSAID)
def test_12_bits_in_16_are_said_and_read_right_with_their_range(name: str, tmp_path: Path) -> None:
    UNSAID[name](tmp_path / name)
    pixels, doubts = read(tmp_path / name)
    assert pixels.max() == 16  # as the file says: 65,535 is white
    assert doubts == {"wide"}
    pixels, doubts = read(tmp_path / name, (0, 4095))
    assert np.abs(pixels - in_range(TWELVE, 0, 4095)).max() <= 0.51
    assert not doubts
    pixels, doubts = read(tmp_path / name, "image")
    assert np.abs(pixels - in_range(TWELVE, *range_of(TWELVE))).max() <= 0.51
    assert not doubts


def test_colours_of_16_bits_are_read_in_their_full_range_alone(tmp_path: Path) -> None:
    """Pillow keeps 8 bits of them, so another range would be of 13 greys."""
    rows = b"".join(
        b"\0" + row.tobytes() for row in np.repeat(TWELVE[..., None], 3, 2).astype(">u2")
    )
    png(tmp_path / "a.png", 64, 64, 16, 2, rows)
    (tmp_path / "a.ppm").write_bytes(
        b"P6 64 64 65535\n" + np.repeat(TWELVE[..., None], 3, 2).astype(">u2").tobytes()
    )
    for name in ("a.png", "a.ppm"):
        assert read(tmp_path / name)[1] == {"wide"}
        with pytest.raises(
            UserError, match=r"more than 8 bits, .*data\.grey needs a file of greys"
        ):
            read(tmp_path / name, (0, 4095))


def test_greys_without_a_known_white_are_read_with_a_range(tmp_path: Path) -> None:
    values = RANDOM.normal(0, 3, (64, 64)).astype(np.float32)
    tiff(tmp_path / "a.tif", values, 32, kind=FLOAT)
    with pytest.raises(UserError, match=r"white is unknown; data\.grey can name it"):
        read(tmp_path / "a.tif")
    for grey, span in (((-2.0, 5.0), (-2.0, 5.0)), ("image", range_of(values))):
        pixels, doubts = read(tmp_path / "a.tif", grey)  # type: ignore[arg-type]
        assert np.abs(pixels - in_range(values, *span)).max() <= 0.51 and not doubts
    values[3, 3] = np.nan
    tiff(tmp_path / "a.tif", values, 32, kind=FLOAT)
    with pytest.raises(UserError, match="its greys are not all numbers"):
        read(tmp_path / "a.tif", "image")


# -- ranges of 8 bits and of DICOM -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.jpeg", "rgb.png", "palette.png"])
def test_a_range_of_8_bits(name: str, tmp_path: Path) -> None:
    image = Image.fromarray(BYTES // 4 + 60)
    image = {"rgb.png": image.convert("RGB"), "palette.png": image.convert("P")}.get(name, image)
    image.save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    full, doubts = read(tmp_path / name)
    assert not doubts
    for grey, span in (((70.0, 110.0), (70.0, 110.0)), ("image", range_of(full))):
        pixels, _ = read(tmp_path / name, grey)  # type: ignore[arg-type]
        assert np.abs(pixels - in_range(full, *span)).max() <= 0.51
    # What is asked for goes before what the recipe says.
    with grey_context("image"):
        np.testing.assert_array_equal(read_grey(tmp_path / name, 64, "full"), full)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"WindowCenter": 9, "WindowWidth": 9},
        {"VOILUTSequence": [lut("VOI", 0, list(range(4096)), 12)]},
        {"RescaleSlope": -0.5, "RescaleIntercept": 300.0},
        {"PixelPaddingValue": 0},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 800},
    ],
    ids=lambda said: "+".join(said) or "nothing",
)
def test_a_range_of_dicom_stands_for_window_and_lut(
    said: dict[str, Any], photometric: str, tmp_path: Path
) -> None:
    file = dicom(tmp_path / "a.dcm", TWELVE, PhotometricInterpretation=photometric, **said)
    values = TWELVE * said.get("RescaleSlope", 1.0) + said.get("RescaleIntercept", 0.0)
    padding = np.zeros(values.shape, dtype=bool)
    if "PixelPaddingValue" in said:
        padding = said.get("PixelPaddingRangeLimit", 0) >= TWELVE
    for grey, span in (((-500.0, 2500.0), (-500.0, 2500.0)), ("image", range_of(values[~padding]))):
        expected = in_range(values, *span)
        if photometric == "MONOCHROME1":
            expected = 255 - expected
        expected[padding] = 0
        pixels, doubts = read(file, grey)  # type: ignore[arg-type]
        assert np.abs(pixels - expected).max() <= 0.51 and not doubts


@given(values=st.lists(st.integers(-50, 50), min_size=1, max_size=300))
@settings(max_examples=200, deadline=None)
def test_the_own_range_is_that_of_sorted_pixels(values: list[int]) -> None:
    levels, counts = np.unique(values, return_counts=True)
    order = np.random.default_rng(0).permutation(len(levels))
    ordered = sorted(values)
    out = min(max(1, math.ceil(0.0005 * len(values))), (len(values) - 1) // 2)
    low, high = ordered[out], ordered[-1 - out]
    if low == high:
        low, high = ordered[0], ordered[-1]
    assert own_range(levels[order], counts[order]) == (low, high)


# -- ruined greys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "top"), [(16, 4095), (16, 1023), (12, 1023), (10, 4095), (12, 65535)]
)
def test_a_lut_whose_entries_need_other_bits_is_read_by_theirs(
    declared: int, top: int, tmp_path: Path
) -> None:
    entries = [round(top * (i / 4095) ** 0.5) for i in range(4096)]
    file = dicom(tmp_path / "a.dcm", TWELVE, VOILUTSequence=[lut("VOI", 0, entries, declared)])
    pixels, doubts = read(file)
    expected = in_range(apply_voi_lut(TWELVE, dcmread(file)), 0, top)
    assert np.abs(pixels - expected).max() <= 0.51
    assert doubts == {"lut"}
    bits = top.bit_length()
    file = dicom(tmp_path / "a.dcm", TWELVE, VOILUTSequence=[lut("VOI", 0, entries, bits)])
    np.testing.assert_array_equal(read(file)[0], pixels)
    assert not read(file)[1]


def with_one(values: np.ndarray, at: tuple[int, int], value: int) -> np.ndarray:
    changed = values.copy()
    changed[at] = value
    return changed


DARK = TWELVE // 16 + np.uint16(100)  # 100 to 355
#: name -> what writes a picture of which little is left, and what is said of it
RUINED: dict[str, tuple[Any, str]] = {
    "below.dcm": (lambda p: dicom(p, TWELVE, WindowCenter=-5000, WindowWidth=100), "window"),
    "above.dcm": (lambda p: dicom(p, TWELVE, WindowCenter=50000, WindowWidth=100), "window"),
    "negative.dcm": (
        lambda p: dicom(p, TWELVE, WindowCenter=50000, WindowWidth=100,
                        PhotometricInterpretation="MONOCHROME1"), "window",
    ),
    "wide.dcm": (lambda p: dicom(p, DARK, WindowCenter=2048, WindowWidth=65536), "window"),
    "exact.dcm": (
        lambda p: dicom(p, TWELVE, WindowCenter=-9, WindowWidth=9, VOILUTFunction="LINEAR_EXACT"),
        "window",
    ),
    "sigmoid.dcm": (
        lambda p: dicom(p, TWELVE, WindowCenter=-9, WindowWidth=9, VOILUTFunction="SIGMOID"),
        "window",
    ),
    "padded.dcm": (
        lambda p: dicom(p, TWELVE, WindowCenter=-5000, WindowWidth=100, PixelPaddingValue=4095),
        "window",
    ),
    "lut.dcm": (
        lambda p: dicom(p, TWELVE, VOILUTSequence=[lut("VOI", 60000, [0, 255], 8)]), "window"
    ),
    "hot.dcm": (lambda p: dicom(p, with_one(DARK, (0, 0), 65535)), "outliers"),
    "dead.dcm": (lambda p: dicom(p, with_one(DARK + np.uint16(9000), (7, 9), 0)), "outliers"),
    "flat.dcm": (lambda p: dicom(p, TWELVE * 0 + 7), "range"),
    "grey.png": (lambda p: Image.fromarray(BYTES // 10 + 90).save(p), "range"),
    "black.png": (lambda p: Image.fromarray(BYTES * 0).save(p), "range"),
    "hot.png": (lambda p: Image.fromarray(with_one(BYTES // 10, (0, 0), 255)).save(p), "range"),
    "grey.jpeg": (lambda p: Image.fromarray(BYTES // 20 + 90).save(p, quality=95), "range"),
    "hot_wide.png": (lambda p: Image.fromarray(with_one(TWELVE, (8, 4), 65535)).save(p), "wide"),
    "flat_wide.png": (lambda p: Image.fromarray(DARK + np.uint16(30000)).save(p), "range"),
}  # fmt: skip
#: those that an image's own range mends
MENDED = {name for name, (_, kind) in RUINED.items() if name not in ("flat.dcm", "black.png")}


@pytest.mark.parametrize("name", RUINED)
def test_what_little_is_left_of_is_said_and_the_own_range_mends_it(
    name: str, tmp_path: Path
) -> None:
    write, kind = RUINED[name]
    write(tmp_path / name)
    pixels, doubts = read(tmp_path / name)
    assert doubts == {kind}
    assert np.ptp(np.sort(pixels, axis=None)[4:-4]) < 32 or kind == "wide" or "padded" in name
    pixels, doubts = read(tmp_path / name, "image")
    assert bool(doubts) == (name not in MENDED)
    assert (pixels.std() > 50) == (name in MENDED)


def test_one_hot_pixel_anywhere_is_seen() -> None:
    flat = BYTES[:32, :32] // 16
    for at in np.ndindex(flat.shape):
        assert find_doubt(with_one(flat, at, 255), "range") == "range"
    assert not find_doubt(BYTES, "range") and not find_doubt(BYTES // 7, "range")


@pytest.mark.parametrize("grey", ["full", "image"])
def test_real_radiographs_are_not_doubted(grey: Grey) -> None:
    files = sorted(real_data("chestxray14").glob("images_*/images/*.png"))[::4]
    files += sorted(real_data("zhang").glob("chest_xray/*/*/*.jpeg"))[::20]
    assert len(files) > 500
    for file in files:
        assert not read(file, grey)[1], file


# -- what is said ----------------------------------------------------------------------------------

RECIPE = (
    WHOLE.replace('"phantom"', '"csv"\nroot = "own"\ncache = "cache"')
    .replace("images = 60\n", "")
    .replace('classes = ["Edema", "Mass"]\n', "")
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """12 PNGs of 12-bit values in 16 bits among those that are well, and a window that is not."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    rows = ["path,label,patient,split"]
    for i in range(30):
        name = f"{i:02}.png" if i else "00.dcm"
        if i == 0:
            dicom(folder / name, TWELVE, WindowCenter=-5000, WindowWidth=100)
        else:
            Image.fromarray(TWELVE if i <= 12 else BYTES).save(folder / name)
        rows.append(f"{name},{'ab'[i % 2]},p{i},{('train', 'test')[i // 20]}")
    (folder / "images.csv").write_text("\n".join(rows))
    (tmp_path / "own.toml").write_text(RECIPE)
    return folder


def data_prepare(*overrides: str) -> str:
    words = [word for text in overrides for word in ("--set", text)]
    done = CliRunner().invoke(cli, ["data", "prepare", "own.toml", *words])
    if done.exception:
        raise done.exception
    return done.output


@pytest.mark.usefixtures("own")
def test_data_prepare_names_ruined_greys_with_counts() -> None:
    for _ in range(2):  # from the store, too
        said = data_prepare()
        names = ", ".join(f"{i:02}.png" for i in range(1, 13))
        assert "12 of 30 images use less than 1/4 of the range" in said
        assert "data.grey = [0, 4095]" in said
        assert f": {names}\n" in said
        assert "1 of 30 images are nearly one grey in the window or VOI LUT" in said
        assert ": 00.dcm\n" in said
    assert "less than" not in data_prepare('data.grey="image"')
    said = data_prepare("data.grey=[0, 4095]")
    assert "less than 1/4" not in said and "17 of 30 images use less than 1/8" in said


def test_a_run_keeps_which_greys_are_ruined(own: Path) -> None:
    place = run(load("own.toml"), own.parent / "run", display=Display(Console(quiet=True)))
    doubtful = json.loads(place.environment.read_text())["dataset"]["doubtful"]
    assert doubtful == {
        "wide": {"images": 12, "first": [f"{i:02}.png" for i in range(1, 13)]},
        "window": {"images": 1, "first": ["00.dcm"]},
    }
    log = place.log.read_text()
    assert "12 of 30 images use less than 1/4" in log
    assert "01.png, 02.png, 03.png, ...\n" in log and "04.png" not in log


@pytest.mark.usefixtures("own")
def test_each_range_has_a_store_of_its_own() -> None:
    folders = {data_prepare(*s).splitlines()[-1] for s in ((), ('data.grey="image"',))}
    assert len(folders) == 2


@pytest.mark.usefixtures("own")
def test_a_range_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[data\]: grey must be \[low, high\] with low < high"):
        data_prepare("data.grey=[4095, 0]")
    with pytest.raises(UserError, match="should be 'full' or 'image'"):
        data_prepare("data.grey=sepia")
    phantom = ["data.plugin=phantom", 'data.grey="image"', "data.cache=cache"]
    with pytest.raises(UserError, match="dataset 'phantom' does not read its images with"):
        CliRunner().invoke(
            cli, ["data", "prepare", "quickstart", *(w for t in phantom for w in ("--set", t))],
            catch_exceptions=False,
        )  # fmt: skip
