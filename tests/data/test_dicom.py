"""DICOM: greys as the standard defines them, and nothing of the patient written or said."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DCGAN_TABLES
from malformed_images import dicom, lut
from PIL import Image
from pydicom import Dataset, config, dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from rich.console import Console

from xraygan import UserError
from xraygan.cli import cli
from xraygan.data.dicom import ELEMENTS
from xraygan.data.images import read_grey
from xraygan.recipe.loading import load
from xraygan.training import engine
from xraygan.utils.progress import Display

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (8, 8), dtype=np.uint8)
TWELVE = RANDOM.integers(0, 4096, (8, 8), dtype=np.uint16)
SIGNED = RANDOM.integers(-1024, 3072, (8, 8), dtype=np.int16)


# -- greys -----------------------------------------------------------------------------------------


def stored_value(word: int, bits: int, signed: bool) -> int:
    """Of a word's lower bits, PS3.5 8.1.1."""
    word &= (1 << bits) - 1
    return word - (1 << bits) if signed and word >> (bits - 1) else word


def looked_up(item: Dataset, x: float) -> int:
    count, first, _ = item.LUTDescriptor
    place = math.floor(x) - first
    return int(item.LUTData[min(max(place, 0), (count or 65536) - 1)])


def windowed(x: float, c: float, w: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, towards [0, 1]."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(-4 * (x - c) / w))
    if function == "LINEAR_EXACT":
        if x <= c - w / 2:
            return 0.0
        return 1.0 if x > c + w / 2 else (x - c) / w + 0.5
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def by_the_standard(pixels: np.ndarray, **said: Any) -> np.ndarray:
    """A pixel after another, in float64: 0 to 255, not rounded."""
    bits = said.get("BitsStored", 8 * pixels.dtype.itemsize)
    signed = pixels.dtype.kind == "i"
    low = said.get("PixelPaddingValue")
    high = said.get("PixelPaddingRangeLimit", low)
    values = np.full(pixels.shape, math.nan)
    for at in np.ndindex(pixels.shape):
        stored = stored_value(int(pixels[at]), bits, signed)
        if low is not None and min(low, high) <= stored <= max(low, high):
            continue
        if "ModalityLUTSequence" in said:
            values[at] = looked_up(said["ModalityLUTSequence"][0], stored)
        else:
            slope, shift = said.get("RescaleSlope", 1.0), said.get("RescaleIntercept", 0.0)
            values[at] = stored * slope + shift
    bottom, top = np.nanmin(values), np.nanmax(values)
    greys = np.zeros(pixels.shape)
    for at, x in np.ndenumerate(values):
        if math.isnan(x):
            continue  # padding is black
        if "VOILUTSequence" in said:
            item = said["VOILUTSequence"][0]
            y = looked_up(item, x) / (2 ** item.LUTDescriptor[2] - 1)
        elif "WindowCenter" in said:
            center, width = (np.ravel(said[f"Window{k}"])[0] for k in ("Center", "Width"))
            y = windowed(x, float(center), float(width), said.get("VOILUTFunction", "LINEAR"))
        else:
            y = (x - bottom) / (top - bottom)
        inverted = said.get("PhotometricInterpretation") == "MONOCHROME1"
        greys[at] = 255 * (1 - y if inverted else y)
    return greys


def ramp(count: int, top: int) -> list[int]:
    """A gamma curve of so many entries up to ``top``."""
    return [round(top * (i / (count - 1)) ** 0.5) for i in range(count)]


KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "8 bits": (BYTES, {}),
    "16 bits": (RANDOM.integers(0, 65536, (8, 8), dtype=np.uint16), {}),
    "12 bits": (TWELVE, {"BitsStored": 12}),
    "12 bits below others": (
        TWELVE | RANDOM.integers(0, 16, (8, 8), dtype=np.uint16) << 12, {"BitsStored": 12},
    ),
    "signed": (SIGNED, {}),
    "12 signed bits": (SIGNED % 2048 - 1024, {"BitsStored": 12}),
    "rescaled": (TWELVE, {"BitsStored": 12, "RescaleSlope": -0.37, "RescaleIntercept": 911.25}),
    "a window": (TWELVE, {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1500}),
    "two windows": (TWELVE, {"WindowCenter": [1000, 40], "WindowWidth": [2000, 400]}),
    "a window of 2": (BYTES, {"WindowCenter": 128, "WindowWidth": 2}),
    "a window of 1": (BYTES, {"WindowCenter": 128, "WindowWidth": 1}),
    "an exact window": (
        TWELVE, {"WindowCenter": 2000.5, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
    ),
    "a sigmoid": (
        TWELVE, {"WindowCenter": 2048, "WindowWidth": 1200, "VOILUTFunction": "SIGMOID"},
    ),
    "a window over rescaled values": (
        SIGNED,
        {"RescaleSlope": 2.5, "RescaleIntercept": -10, "WindowCenter": 1500, "WindowWidth": 3000},
    ),
    "padding": (SIGNED, {"PixelPaddingValue": int(SIGNED.min())}),
    "a range of padding": (
        TWELVE, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3000, "BitsStored": 16},
    ),
    "a LUT": (TWELVE, {"VOILUTSequence": [lut("VOI", 100, ramp(3000, 4095), 12)]}),
    "a LUT of 8 bits": (BYTES, {"VOILUTSequence": [lut("VOI", 20, ramp(200, 255), 8)]}),
    "a LUT of 65,536 entries": (
        TWELVE * 16, {"VOILUTSequence": [lut("VOI", 0, ramp(65536, 65535), 16)]},
    ),
    "a LUT and a window": (
        TWELVE,
        {"VOILUTSequence": [lut("VOI", 0, ramp(4096, 1023), 10)], "WindowCenter": 9,
         "WindowWidth": 9},
    ),
    "a modality LUT": (
        TWELVE, {"ModalityLUTSequence": [lut("Modality", 1000, ramp(2000, 65535), 16)]},
    ),
    "a modality LUT and a window": (
        SIGNED,
        {"ModalityLUTSequence": [lut("Modality", -500, ramp(2000, 4095), 12)],
         "WindowCenter": 2000, "WindowWidth": 2000},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:The value for the data element:UserWarning"
)  # of 65,536 entries
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", KINDS)
def test_greys_are_those_of_the_standard(kind: str, photometric: str, tmp_path: Path) -> None:
    pixels, said = KINDS[kind]
    said = said | {"PhotometricInterpretation": photometric}
    expected = by_the_standard(pixels, **said)
    assert len(np.unique(expected.round())) > 1
    # Of what the reader must tell by itself in an implicit file: whether words are signed.
    for syntax in ("", ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        greys = read_grey(dicom(tmp_path / "a.dcm", pixels, syntax, **said), 8)
        assert np.abs(greys - expected).max() <= 0.5 + 1e-9


def test_colour_becomes_luma(tmp_path: Path) -> None:
    rgb = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = rgb @ [0.299, 0.587, 0.114]
    planes = rgb.transpose(2, 0, 1)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    for name, pixels, said in (
        ("rgb", rgb, {}),
        ("planes", rgb, {"PlanarConfiguration": 1, "PixelData": planes.tobytes()}),
        ("ybr", ybr, {"PhotometricInterpretation": "YBR_FULL"}),
    ):
        greys = read_grey(dicom(tmp_path / f"{name}.dcm", pixels, **said), 8)
        assert np.abs(greys - expected).max() <= (0.5 if name != "ybr" else 2), name


def test_compressed_pixels_are_those_that_were_not(tmp_path: Path) -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 1500, "BitsStored": 12}
    plain = read_grey(dicom(tmp_path / "plain.dcm", TWELVE, **window), 8)
    rle = dcmread(tmp_path / "plain.dcm")
    rle.compress(RLELossless)
    rle.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_grey(tmp_path / "rle.dcm", 8), plain)
    dicom(tmp_path / "big.dcm", TWELVE.astype(">u2"), ExplicitVRBigEndian, **window)
    np.testing.assert_array_equal(read_grey(tmp_path / "big.dcm", 8), plain)

    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    plain = read_grey(dicom(tmp_path / "plain.dcm", smooth), 64)
    for syntax, form in ((JPEGBaseline8Bit, "JPEG"), (JPEG2000Lossless, "JPEG2000")):
        stream = BytesIO()
        how = {"no_jp2": True} if form == "JPEG2000" else {"quality": 100}
        Image.fromarray(smooth).save(stream, form, **how)
        frame = encapsulate([stream.getvalue()])
        file = dicom(tmp_path / "packed.dcm", smooth, syntax, PixelData=frame)
        assert np.abs(read_grey(file, 64).astype(int) - plain).max() <= 4


@pytest.mark.parametrize(
    ("allocated", "stored", "coded", "signed"),
    [(8, 8, 8, False), (16, 10, 10, False), (16, 12, 12, False), (16, 12, 16, False),
     (16, 16, 16, False), (16, 12, 12, True), (16, 16, 16, True)],
)  # fmt: skip
def test_jpeg_2000_of_any_bits(
    allocated: int, stored: int, coded: int, signed: bool, tmp_path: Path
) -> None:
    """Pillow writes 8 and 16 bits: the same numbers, with their level shift, for those declared."""
    low = -(2 ** (stored - 1)) if signed else 0
    values = RANDOM.integers(low, low + 2**stored, (8, 8))
    shift = 0 if coded == 8 else 2**15 - (0 if signed else 2 ** (coded - 1))
    written = (values + shift).astype(np.uint8 if coded == 8 else np.uint16)
    Image.fromarray(written).save(stream := BytesIO(), "JPEG2000", no_jp2=True)
    code = bytearray(stream.getvalue())
    code[code.index(b"\xff\x4f\xff\x51") + 42] = coded - 1 | 0x80 * signed
    pixels = values.astype(f"{'i' if signed else 'u'}{allocated // 8}")
    frame = encapsulate([bytes(code)])
    file = dicom(tmp_path / "a.dcm", pixels, JPEG2000Lossless, BitsStored=stored, PixelData=frame)
    expected = by_the_standard(pixels, BitsStored=stored)
    assert np.abs(read_grey(file, 8) - expected).max() <= 0.5 + 1e-9


def test_a_file_is_dicom_by_its_content_too(tmp_path: Path) -> None:
    file = dicom(tmp_path / "IM0001", BYTES, WindowCenter=128, WindowWidth=256)
    np.testing.assert_array_equal(read_grey(file, 8), BYTES)


def test_without_pydicom_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dicom(tmp_path / "a.dcm", BYTES)
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(UserError, match=r'a\.dcm: .*pydicom.*: pip install "pydicom>=3"'):
        read_grey(file, 8)


def test_pydicom_is_imported_for_dicom_alone() -> None:
    code = "import sys, xraygan.data.datamodule; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- patients --------------------------------------------------------------------------------------

MARKER = "WALDEMAR7Q"
#: value representations that hold text
TEXT = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


@pytest.fixture
def _anything_goes() -> Iterator[None]:
    """pydicom writes what the standard does not allow."""
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.IGNORE
    yield
    config.settings.writing_validation_mode = before


def told(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """A DICOM file of which every text that is not needed for its picture names the patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = dcmread(dicom(path, pixels, **elements))
        data.preamble = MARKER.encode().ljust(128, b"\0")
        for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
            if kind in TEXT and keyword not in ELEMENTS and 0x0008 <= tag >> 16 < 0xFFFA:
                data.add(DataElement(tag, kind, MARKER))
        data.add_new(0x00091001, "LO", MARKER)
        asked = Dataset()
        asked.PatientName = MARKER
        data.RequestAttributesSequence = [asked]
        for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
            for item in data.get(sequence, []):
                item.LUTExplanation = item.PatientName = MARKER
        data.file_meta.SourceApplicationEntityTitle = MARKER
        data.file_meta.MediaStorageSOPInstanceUID = MARKER
        data.save_as(path)
    assert path.read_bytes().count(MARKER.encode()) > 1000
    return path


RECIPE = (
    """
[run]
steps = 1
batch_size = 2
[data]
plugin = "csv"
root = "own"
cache = "cache"
image_size = 32
on_bad_image = "skip"
"""
    + DCGAN_TABLES
    + """[classifier]
plugin = "resnet18"
[evaluation]
generated = 2
bootstrap = 0
"""
)


@pytest.mark.usefixtures("_anything_goes")
def test_nothing_of_a_patient_is_written_or_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whole files and broken ones, each text element of the standard with the patient's name."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    large = RANDOM.integers(0, 4096, (32, 32), dtype=np.uint16)
    for i in range(8):
        told(own / f"{i}.dcm", large, VOILUTSequence=[lut("VOI", 0, ramp(4096, 255), 8)])
    # Those that are read, with the name in them.
    texts = ("PhotometricInterpretation", "VOILUTFunction")
    for name in texts:
        told(own / f"{name}.dcm", large, WindowCenter=9, WindowWidth=9, **{name: MARKER})
    for name in ("WindowCenter", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"):
        file = told(own / f"{name}.dcm", large, WindowWidth=9, **{name: 1234567890})
        file.write_bytes(file.read_bytes().replace(b"1234567890", MARKER.encode()))
    file = told(own / "TransferSyntaxUID.dcm", large)
    syntax = b"1.2.840.10008.1.2.1\0"
    file.write_bytes(file.read_bytes().replace(syntax, MARKER.encode().ljust(len(syntax), b"\0")))
    for name, share in (("cut", 0.9), ("cut_early", 0.5)):
        whole = told(own / f"{name}.dcm", large).read_bytes()
        (own / f"{name}.dcm").write_bytes(whole[: int(len(whole) * share)])
    bad = sorted(path.name for path in own.glob("[!0-9]*.dcm"))
    rows = [f"{i}.dcm,{'ab'[i % 2]},p{i},{('train', 'test')[i // 6]}" for i in range(8)]
    rows += [f"{name},a,q{i},train" for i, name in enumerate(bad)]
    (own / "images.csv").write_text("\n".join(["path,label,patient,split", *rows]))
    (tmp_path / "own.toml").write_text(RECIPE)

    monkeypatch.setattr(config, "INVALID_KEYWORD_BEHAVIOR", "WARN")
    for name in ("pydicom", "PIL"):
        caplog.set_level(logging.DEBUG, name)
    caplog.clear()  # of what was said when the files were written
    recipe = load(tmp_path / "own.toml")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        cli.main(["data", "prepare", "own.toml"], standalone_mode=False)
        engine.run(recipe, tmp_path / "run", display=Display(Console(stderr=True)))
        with pytest.raises(UserError) as stopped:
            cli.main(
                ["data", "prepare", "own.toml", "--set", "data.on_bad_image=stop"],
                standalone_mode=False,
            )
    said = [*capfd.readouterr(), caplog.text, str(stopped.value), *(str(w.message) for w in warned)]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    skipped = environment["dataset"]["skipped"]
    assert sorted(skipped) == bad
    for name in bad:
        assert name in said[0]
    assert not [text for text in said if MARKER in text]
    for file in tmp_path.rglob("*"):
        if file.is_file() and not file.is_relative_to(own):
            assert MARKER.encode() not in file.read_bytes(), file
