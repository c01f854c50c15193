"""TIFF: every kind that is opened gives the greys of the definition, or is refused by its name."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiffs import DEFLATE, FLOAT, INT, JPEG, LZW, PACKBITS, joined, tiff

from xraygan import UserError
from xraygan.data.greys import Grey
from xraygan.data.images import read_grey

SIDE = 18
RANDOM = np.random.default_rng(0)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def samples(bits: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    shape = (SIDE, SIDE, channels) if channels > 1 else (SIDE, SIDE)
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=np.int64)


def greys(values: np.ndarray, low: float, high: float, *, inverted: bool = False) -> np.ndarray:
    """A pixel after another, in float64: 0 to 255, not rounded."""
    found = np.zeros(values.shape)
    for at, value in np.ndenumerate(values):
        share = min(max((float(value) - low) / (high - low), 0.0), 1.0)
        found[at] = 255 * (1 - share if inverted else share)
    return found


def luma(colours: np.ndarray, white: int) -> np.ndarray:
    found = np.zeros(colours.shape[:2])
    for at in np.ndindex(found.shape):
        found[at] = 255 / white * sum(w * c for w, c in zip(LUMA, colours[at], strict=True))
    return found


def error(file: Path, expected: np.ndarray, grey: Grey = "full") -> float:
    return float(np.abs(read_grey(file, SIDE, grey) - expected.astype(float)).max())


#: ways to store the same samples, of any bits
WAYS: dict[str, dict[str, Any]] = {
    "strips": {},
    "one strip": {"rows": SIDE},
    "one strip of any height": {"rows": SIDE, "t278": 2**32 - 1},
    "deflated strip of any height": {"rows": SIDE, "t278": 2**32 - 1, "compression": DEFLATE},
    "tiles": {"tile": 16},
    "LZW": {"compression": LZW},
    "deflate": {"compression": DEFLATE},
    "deflated tiles": {"compression": DEFLATE, "tile": 16},
    "packbits": {"compression": PACKBITS},
    "big": {"big": True},
    "big, deflated": {"big": True, "compression": DEFLATE},
    "unknown predictor without compression": {"t317": 2},
}
#: and those that need whole bytes
BYTES: dict[str, dict[str, Any]] = {
    "predictor": {"compression": DEFLATE, "predictor": 2},
    "LZW, predictor, tiles": {"compression": LZW, "predictor": 2, "tile": 16},
}
FILLED: dict[str, dict[str, Any]] = {
    "fill order": {"fill": 2},
    "fill order, deflated": {"fill": 2, "compression": DEFLATE},
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_greys_of_up_to_8_bits(bits: int, photometric: int, order: str, tmp_path: Path) -> None:
    values = samples(bits)
    expected = greys(values, 0, 2**bits - 1, inverted=photometric == 0)
    ways = WAYS | FILLED | (BYTES if bits == 8 else {})
    if bits == 8 and photometric == 0:
        del ways["fill order"]  # Pillow says that it does not know it
    for name, way in ways.items():
        if order == ">" and way.get("big"):
            continue
        file = tiff(tmp_path / "a.tif", values, bits, photometric=photometric, order=order, **way)
        assert error(file, expected) <= 0.5 + 1e-9, name


@pytest.mark.parametrize("way", WAYS | BYTES)
@pytest.mark.parametrize(
    ("order", "photometric", "bits"), [("<", 1, 16), ("<", 0, 16), (">", 1, 16), ("<", 1, 12)]
)
def test_greys_of_12_and_16_bits(
    order: str, photometric: int, bits: int, way: str, tmp_path: Path
) -> None:
    if (bits == 12 and way in BYTES) or (order == ">" and "big" in way):
        pytest.skip("libtiff has no predictor for 12 bits, Pillow no big-endian BigTIFF")
    values, how = samples(bits), (WAYS | BYTES)[way]
    file = tiff(tmp_path / "a.tif", values, bits, photometric=photometric, order=order, **how)
    inverted = photometric == 0
    for grey, span in (("full", (0, 2**bits - 1)), ((900.0, 3000.0), (900, 3000))):
        expected = greys(values, *span, inverted=inverted)
        assert error(file, expected, grey) <= 0.51  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["strips", "tiles", "deflate", "predictor"])
@pytest.mark.parametrize("order", "<>")
def test_signed_greys(order: str, way: str, tmp_path: Path) -> None:
    """White of 16 signed bits is 32,767; where values are below 0 only a range says what is."""
    how = (WAYS | BYTES)[way] | {"order": order, "kind": INT}
    for bits in (16, 32):
        values = samples(16) - 2**15
        file = tiff(tmp_path / "a.tif", values, bits, **how)
        if order == ">" and "compression" in how:
            with pytest.raises(UserError, match=f"compressed big-endian TIFF of signed {bits}-bit"):
                read_grey(file, SIDE)
            continue
        assert error(file, greys(values, -9000, 20000), (-9000, 20000)) <= 0.51
        with pytest.raises(UserError, match=r"white is unknown; data\.grey can name it"):
            read_grey(file, SIDE)
        file = tiff(tmp_path / "a.tif", values.clip(0), bits, **how)
        assert error(file, greys(values, 0, 2**15 - 1 if bits == 16 else 65535)) <= 0.51


@pytest.mark.parametrize("way", ["strips", "tiles", "deflate", "predictor"])
def test_32_unsigned_bits(way: str, tmp_path: Path) -> None:
    values = samples(32)
    file = tiff(tmp_path / "a.tif", values, 32, **(WAYS | BYTES)[way])
    assert error(file, greys(values, 1e9, 3.5e9), (1e9, 3.5e9)) <= 0.51
    with pytest.raises(UserError, match="white is unknown"):
        read_grey(file, SIDE)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("way", [*WAYS, "predictor 3"])
def test_floating_point(way: str, photometric: int, tmp_path: Path) -> None:
    how = WAYS.get(way, {"compression": DEFLATE, "predictor": 3})
    values = RANDOM.normal(0, 3, (SIDE, SIDE)).astype(np.float32)
    expected = greys(values, -2, 5, inverted=photometric == 0)
    for order in "<>":
        file = tmp_path / "a.tif"
        how = how | {"kind": FLOAT, "photometric": photometric, "order": order}
        tiff(file, values, 32, **how)
        if order == ">" and ("compression" in how or "big" in how):
            with pytest.raises(
                UserError, match=r"big-endian TIFF of .*floating-point|big-endian BigTIFF"
            ):
                read_grey(file, SIDE, (-2.0, 5.0))
        else:
            assert error(file, expected, (-2.0, 5.0)) <= 0.51


# -- colours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS | BYTES)
def test_colours(way: str, tmp_path: Path) -> None:
    """16 bits are cut to 8 by Pillow: a grey more."""
    how = (WAYS | BYTES)[way]
    for bits, most in ((8, 0.51), (16, 1.51)):
        white = 2**bits - 1
        for extra in (None, 0, 2):
            values = samples(bits, 3 if extra is None else 4)
            file = tiff(tmp_path / "a.tif", values, bits, photometric=2, extra=extra, **how)
            assert error(file, luma(values[..., :3], white)) <= most, (bits, extra)
        values = samples(bits, 4)
        left = (1 - values[..., :3] / white) * (1 - values[..., 3:] / white)
        file = tiff(tmp_path / "a.tif", values, bits, photometric=5, **how)
        assert error(file, luma(left, 1)) <= most + 0.5, f"CMYK {bits}"
    values = samples(8, 3)
    for more in ({"tile": 16}, {}, {"compression": DEFLATE}):
        file = tiff(tmp_path / "a.tif", values, 8, photometric=2, planar=2, **more)
        assert error(file, luma(values, 255)) <= 0.51
    for extra in (0, 2):
        values = samples(8, 2)
        file = tiff(tmp_path / "a.tif", values, 8, extra=extra, **how)
        assert error(file, values[..., 0]) == 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(bits: int, tmp_path: Path) -> None:
    values, colours = samples(bits), RANDOM.integers(0, 65536, (2**bits, 3))
    colours[0] = 65535
    table = colours.T.ravel().tolist()
    for way in ("strips", "tiles", "deflate"):
        file = tiff(tmp_path / "a.tif", values, bits, photometric=3, palette=table, **WAYS[way])
        assert error(file, luma(colours[values], 65535)) <= 1.51


def test_jpeg_and_ccitt(tmp_path: Path) -> None:
    """Compressions that lose, or that only a library writes."""
    smooth = np.add.outer(7 * np.arange(SIDE), 5 * np.arange(SIDE)).astype(np.uint8)
    Image.fromarray(smooth).save(stream := BytesIO(), "JPEG", quality=100)
    tags = {256: SIDE, 257: SIDE, 258: 8, 259: JPEG, 262: 1, 277: 1, 278: SIDE}
    file = joined(tmp_path / "a.tif", tags, [stream.getvalue()], (273, 279), "<", big=False)
    assert error(file, smooth) <= 3
    Image.fromarray(smooth).convert("RGB").save(file, compression="jpeg", quality=100)
    assert error(file, smooth) <= 3
    bits = samples(1).astype(bool)
    for kind in ("tiff_ccitt", "group3", "group4"):
        for photometric in (0, 1):
            Image.fromarray(bits).save(file, compression=kind, tiffinfo={262: photometric})
            assert error(file, 255 * bits) == 0, (kind, photometric)


# -- refused ---------------------------------------------------------------------------------------

COLOURS_APART = {"photometric": 2, "planar": 2}
#: what -> bits, channels, how, and words of the message
REFUSED: dict[str, tuple[int, int, dict[str, Any], str]] = {
    "14 bits": (14, 1, {}, "a TIFF of 1 14-bit samples a pixel"),
    "12 bits, white is 0": (12, 1, {"photometric": 0}, "1 12-bit samples .*Interpretation 0"),
    "12 bits, big-endian": (12, 1, {"order": ">"}, "a big-endian TIFF of 1 12-bit samples"),
    "16 bits, MM, white is 0": (16, 1, {"order": ">", "photometric": 0}, "big-endian TIFF of 1 16"),
    "BigTIFF, MM": (8, 1, {"order": ">", "big": True}, "a big-endian BigTIFF that is damaged"),
    "half floats": (16, 1, {"kind": FLOAT}, "1 floating-point 16-bit samples"),
    "doubles": (64, 1, {"kind": FLOAT}, "1 floating-point 64-bit samples"),
    "signed bytes": (8, 1, {"kind": INT}, "a TIFF of signed 8-bit samples"),
    "undefined samples": (8, 1, {"t339": 4}, "a TIFF of 1 8-bit samples"),
    "no photometric": (16, 1, {"photometric": None}, "says whether 0 is black or white"),
    "no photometric, 8": (8, 1, {"photometric": None}, "says whether 0 is black or white"),
    "4 bits of colour": (4, 3, {"photometric": 2}, "a TIFF of 3 4-bit samples a pixel"),
    "16 bits apart": (16, 3, COLOURS_APART, "3 colours of 16 bits are stored apart"),
    "deflated 16 bits apart": (16, 3, COLOURS_APART | {"compression": 8}, "16 bits are stored ap"),
    "4 planes": (8, 4, COLOURS_APART | {"compression": DEFLATE}, "4 colours of 8 bits are stored"),
    "CMYK apart": (8, 4, {"photometric": 5, "planar": 2}, "4 colours of 8 bits are stored apart"),
    "YCbCr": (8, 3, {"photometric": 6}, "YCbCr colours that are not compressed as JPEG"),
    "deflated YCbCr": (8, 3, {"photometric": 6, "compression": DEFLATE}, "YCbCr colours that are"),
    "Lab": (8, 3, {"photometric": 8}, "pixels of the mode LAB"),
    "premultiplied": (8, 2, {"extra": 1}, "pixels of the mode La"),
    "dark palette": (2, 1, {"photometric": 3, "palette": [255] * 12}, "palette has 8-bit colours"),
    "LogL": (16, 1, {"photometric": 32844, "kind": INT}, "Interpretation 32844"),
    "a colour filter": (16, 1, {"photometric": 32803}, "PhotometricInterpretation 32803"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_read_wrongly_is_refused_by_its_name(what: str, tmp_path: Path) -> None:
    bits, channels, how, words = REFUSED[what]
    file = tiff(tmp_path / "a.tif", samples(min(bits, 16), channels), bits, **how)
    for grey in ("full", "image", (0.0, 100.0)):
        with pytest.raises(UserError, match=rf"a\.tif: .*{words}.*; convert it to a PNG"):
            read_grey(file, SIDE, grey)  # type: ignore[arg-type]


def test_the_writer_agrees_with_tifffile(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for bits, kind, form in ((8, 1, "u1"), (16, 1, "u2"), (16, INT, "i2"), (32, FLOAT, "f4")):
        values = samples(bits if kind == 1 else 12).astype(form)
        for order in "<>":
            for way in ({}, {"tile": 16}, {"big": True}, {"compression": DEFLATE}):
                file = tiff(tmp_path / "a.tif", values, bits, kind=kind, order=order, **way)
                np.testing.assert_array_equal(tifffile.imread(file), values)
    colours = samples(16, 3).astype("u2")
    tiff(tmp_path / "a.tif", colours, 16, photometric=2, planar=2)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), colours.transpose(2, 0, 1))
