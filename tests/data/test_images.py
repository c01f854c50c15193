"""Images: what a file becomes before it reaches a network."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from malformed_images import png
from PIL import Image
from xraygan_phantom.dataset import Phantom

from xraygan import UserError
from xraygan.data.images import file_identity, read_grey

# -- read_grey -------------------------------------------------------------------------------------

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
WIDE = GREY.astype(np.uint16) * 257  # the same greys in 16 bits
ALPHA = GREY[::-1]


def reversed_palette() -> Image.Image:
    """Indices that run against their greys, half transparent, as an indexed PNG may hold."""
    image = Image.fromarray(255 - GREY).convert("P")
    image.putpalette([255 - i for i in range(256) for _ in range(3)])
    image.info["transparency"] = bytes([0, 255] * 128)
    return image


SAME_GREYS = {
    "grey.png": lambda: Image.fromarray(GREY),
    "grey_alpha.png": lambda: Image.fromarray(np.dstack([GREY, ALPHA])),
    "rgb.png": lambda: Image.fromarray(np.dstack([GREY] * 3)),
    "rgba.png": lambda: Image.fromarray(np.dstack([GREY, GREY, GREY, ALPHA])),
    "palette.png": reversed_palette,
    "16bit.png": lambda: Image.fromarray(WIDE),
    "16bit_big_endian.tif": lambda: Image.fromarray(WIDE.astype(">u2")),
    "32bit_holding_16.tif": lambda: Image.fromarray(WIDE.astype(np.int32)),
}


@pytest.mark.parametrize("name", SAME_GREYS)
def test_read_grey_gives_the_same_pixels_whatever_the_mode(name: str, tmp_path: Path) -> None:
    SAME_GREYS[name]().save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_grey(tmp_path / name, 16)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable  # torch.from_numpy warns of anything else
    np.testing.assert_array_equal(pixels, GREY)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_read_grey_of_16_bit_colour(colour: int, channels: int, tmp_path: Path) -> None:
    samples = np.repeat(WIDE[..., None], channels, axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    file = png(tmp_path / "wide.png", 16, 16, 16, colour, rows)
    np.testing.assert_array_equal(read_grey(file, 16), GREY)


def test_read_grey_of_a_cmyk_jpeg(tmp_path: Path) -> None:
    ink = np.zeros((16, 16, 4), dtype=np.uint8)
    ink[..., 3] = 255 - GREY  # black ink only
    Image.fromarray(ink, "CMYK").save(tmp_path / "cmyk.jpeg", quality=100)
    pixels = read_grey(tmp_path / "cmyk.jpeg", 16)
    np.testing.assert_allclose(pixels.astype(int), GREY, atol=2)


def test_read_grey_of_one_bit(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "1bit.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "1bit.png", 16), (GREY > 127) * 255)


def test_read_grey_weighs_colours_by_luma(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    Image.new("RGB", (4, 4), (255, 0, 0)).save(file)
    np.testing.assert_array_equal(read_grey(file, 4), np.full((4, 4), round(0.299 * 255)))


def test_read_grey_squeezes_the_whole_picture_and_averages(tmp_path: Path) -> None:
    wide = np.zeros((8, 32), dtype=np.uint8)
    wide[:, 16:] = 200  # left half black, right half grey
    wide[:, ::2] //= 2  # in stripes that only a filter that averages makes even
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = read_grey(tmp_path / "wide.png", 8)
    assert pixels.shape == (8, 8)
    assert pixels[:, :3].max() == 0
    np.testing.assert_allclose(pixels[:, 5:], 150, atol=5)


def shortened(values: np.ndarray, length: int, factor: int) -> np.ndarray:
    """Rows averaged in groups of ``factor``, and then by weights that fall to 0 at one step."""
    extent = len(values) / factor  # the last group may be smaller
    groups = [values[i : i + factor].mean(0) for i in range(0, len(values), factor)]
    scale = extent / length
    reach = max(scale, 1.0)
    result = np.zeros((length, *values.shape[1:]))
    for i in range(length):
        center = (i + 0.5) * scale
        weights = [max(0.0, 1 - abs(j + 0.5 - center) / reach) for j in range(len(groups))]
        for weight, group in zip(weights, groups, strict=True):
            result[i] += weight / sum(weights) * group
    return result


@given(
    height=st.integers(4, 90), width=st.integers(4, 90), size=st.integers(4, 40),
    seed=st.integers(0, 99),
)  # fmt: skip
@example(height=224, width=224, size=128, seed=0)
@example(height=97, width=64, size=16, seed=0)
@example(height=61, width=67, size=15, seed=0)
@example(height=4, width=999, size=16, seed=0)
@example(height=999, width=4, size=16, seed=0)
@settings(max_examples=60, deadline=None)
def test_read_grey_resizes_by_an_antialiased_triangle(
    height: int, width: int, size: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against float64 loops, which do not round to whole greys in between."""
    greys = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    file = tmp_path_factory.getbasetemp() / "noise.png"
    Image.fromarray(greys).save(file)
    factors = [1, 1]
    if min(height, width) >= 4 * size:
        factors = [height // (2 * size), width // (2 * size)]
    narrow = shortened(greys.T.astype(np.float64), size, factors[1]).T
    found = read_grey(file, size).astype(np.float64)
    np.testing.assert_allclose(found, shortened(narrow, size, factors[0]), atol=1.5, rtol=0)


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    """A phantom with a detector's noise, 512 x 512."""
    phantom = Phantom(None, images=1)
    clean = phantom.load(phantom.index()["path"][0], 512)
    noise = np.random.default_rng(0).normal(0, 3, clean.shape)
    return (clean + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("size", "most", "mean"),  # decoded at an eighth, a quarter, half and all of 512 pixels
    [(32, 10, 1.1), (64, 14, 0.7), (128, 10, 0.5), (200, 0, 0)],
)
def test_read_grey_of_a_jpeg_is_near_a_full_decode(
    radiograph: np.ndarray, tmp_path: Path, mode: str, size: int, most: int, mean: float
) -> None:
    """On 20 phantoms it was 8, 12 and 8 greys at most, at the letter that names the side, and 1.0,
    0.5 and 0.3 on average."""
    file = tmp_path / "radiograph.jpeg"
    Image.fromarray(radiograph).convert(mode).save(file, quality=90)
    difference = np.abs(read_grey(file, size).astype(int) - by_pillow(file, size, draft=False))
    assert difference.max() <= most
    assert difference.mean() <= mean


def by_pillow(file: Path, size: int, *, draft: bool = True) -> np.ndarray:
    """What Pillow alone decodes from a JPEG, as finely as is needed or in full; then resized."""
    with Image.open(file) as image:
        if draft:
            image.draft("L", (2 * size, 2 * size))
        image.convert("L").save(file.with_suffix(".png"))
    return read_grey(file.with_suffix(".png"), size)


@pytest.mark.parametrize("kind", ["L", "RGB", "progressive", "CMYK", "RGB kept", "odd"])
@pytest.mark.parametrize("size", [16, 40, 100, 128, 300])
def test_read_grey_of_a_jpeg_is_what_pillow_makes_of_it(
    radiograph: np.ndarray, tmp_path: Path, kind: str, size: int
) -> None:
    colours = np.dstack([radiograph, radiograph[::-1], radiograph.T])
    image = Image.fromarray(radiograph if kind == "L" else colours)
    if kind == "odd":
        image = image.crop((0, 0, 347, 261))
    options = {"progressive": {"progressive": True}, "RGB kept": {"keep_rgb": True}}
    file = tmp_path / "radiograph.jpeg"
    image = image.convert("CMYK") if kind == "CMYK" else image
    image.save(file, quality=90, **options.get(kind, {}))  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_grey(file, size), by_pillow(file, size))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_read_grey_takes_and_refuses_damaged_jpegs_as_pillow_does(
    small_jpeg: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(small_jpeg)
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.jpeg"
    file.write_bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])
    try:
        expected = by_pillow(file, 16)
    except Exception:
        with pytest.raises(UserError, match=r"damaged\.jpeg: not a readable image"):
            read_grey(file, 16)
    else:
        np.testing.assert_array_equal(read_grey(file, 16), expected)


@pytest.fixture(scope="module")
def small_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


def test_read_grey_of_a_large_picture_is_near_an_exact_resize(
    radiograph: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(radiograph).save(tmp_path / "radiograph.png")
    exact = Image.fromarray(radiograph).resize((64, 64), Image.Resampling.BILINEAR)
    difference = np.abs(read_grey(tmp_path / "radiograph.png", 64).astype(int) - np.asarray(exact))
    assert difference.max() <= 12
    assert difference.mean() <= 0.7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.png", b"Data_Entry_2017.csv\n" * 20),
        ("page.jpeg", b"<!DOCTYPE html><html><body>Sign in to download</body></html>"),
    ],
)
def test_read_grey_refuses_what_is_no_image(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: not a readable image"):
        read_grey(tmp_path / name, 16)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpeg"])
def test_read_grey_never_pads_a_truncated_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    whole, pixels = file.read_bytes(), read_grey(file, 16)
    refused = 0
    for length in range(0, len(whole), 5):
        file.write_bytes(whole[:length])
        try:
            # Only what follows the pixels may be gone.
            np.testing.assert_array_equal(read_grey(file, 16), pixels)
        except UserError:
            refused += 1
    assert refused > 0.9 * len(whole) / 5


def test_read_grey_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: the image is not there"):
        read_grey(tmp_path / "gone.png", 16)
    with pytest.raises(UserError, match="not a readable image"):
        read_grey(tmp_path, 16)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 30_000])  # Pillow alone warns of the first, and reads it
def test_read_grey_refuses_a_decompression_bomb(side: int, tmp_path: Path) -> None:
    file = png(tmp_path / "bomb.png", side, side, 8, 0, b"")
    with pytest.raises(UserError, match=r"bomb.png: not a readable image \(.*pixels"):
        read_grey(file, 16)


@pytest.mark.parametrize("greys", [WIDE / np.float32(65535), WIDE.astype(np.int32) * 2])
def test_read_grey_refuses_greys_without_a_known_white(greys: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(greys).save(tmp_path / "wide.tif")
    with pytest.raises(UserError, match="white is unknown"):
        read_grey(tmp_path / "wide.tif", 16)


# -- identity --------------------------------------------------------------------------------------


def test_the_identity_of_a_file(tmp_path: Path) -> None:
    assert file_identity(tmp_path, "gone.png") == ""
    (tmp_path / "a.png").write_bytes(b"12345")
    before = file_identity(tmp_path, "a.png")
    assert before == file_identity(tmp_path, "a.png")
    os.utime(tmp_path / "a.png", ns=(1, 1))
    touched = file_identity(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes(b"123456")
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert len({before, touched, file_identity(tmp_path, "a.png")}) == 3
