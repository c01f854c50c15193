"""Image files that are bad in every way we know of, and DICOM files of any kind."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

NOISE = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)


def png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes) -> Path:
    """Write a PNG of a kind that Pillow cannot write (16-bit colour) or should not (a bomb)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def dicom(path: Path, pixels: np.ndarray | None = None, syntax: str = "", **elements: Any) -> Path:
    """Write a DICOM file.

    Args:
        pixels: ``(R, C)`` or ``(R, C, 3)``; none leaves out the picture.
        syntax: its transfer syntax, explicit little endian by default.
        elements: further data elements, which win over those that follow from the pixels; None
            takes one away.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    words: dict[str, Any] = {}
    if pixels is not None:
        bits = 8 * pixels.dtype.itemsize
        words = {
            "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
            "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
            **({} if pixels.ndim == 2 else {"PlanarConfiguration": 0}),
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "BitsAllocated": bits,
            "BitsStored": bits,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes(),
        }
    words |= elements
    if "BitsStored" in words:
        words.setdefault("HighBit", words["BitsStored"] - 1)
    for keyword, value in words.items():
        if value is not None:
            setattr(data, keyword, value)
    if "PixelData" in data:
        data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
        data["PixelData"].is_undefined_length = data.file_meta.TransferSyntaxUID.is_compressed and (
            data.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian
        )
    data.save_as(path, enforce_file_format=True)
    return path


def lut(keyword: str, first: int, entries: list[int], bits: int) -> Dataset:
    """An item of a LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    item["LUTData"].VR = "US"
    return item


# -- what cannot be read ---------------------------------------------------------------------------


def _bytes(content: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content())


def _half(form: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        whole = saved(Image.fromarray(NOISE), form)
        path.write_bytes(whole[: len(whole) * 2 // 3])

    return write


def _with_bad_checksum(path: Path) -> None:
    whole = bytearray(saved(Image.fromarray(NOISE), "PNG"))
    whole[whole.index(b"IDAT") + 20] ^= 0xFF
    path.write_bytes(whole)


def _half_dicom(path: Path) -> None:
    whole = dicom(path, NOISE).read_bytes()
    path.write_bytes(whole[:-100])


def _deflated_bomb(path: Path) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands by itself
    start = dicom(path, syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    meta = 144 + struct.unpack("<I", start[140:144])[0]
    path.write_bytes(start[:meta] + block * 300 + packer.flush())


def _jpeg_in_dicom(path: Path) -> None:
    """Of more pixels than the file says."""
    large = saved(Image.new("L", (400, 300)), "JPEG")
    dicom(path, NOISE, JPEGBaseline8Bit, PixelData=encapsulate([large]))


def edited(path: Path, old: bytes, new: bytes) -> None:
    """Write bytes that pydicom would not, in place of as many that stand in a file once."""
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


#: file name -> what writes it, and words of the message
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.png": (lambda path: None, "the image is not there"),
    "empty.png": (Path.touch, "the file is empty"),
    "cut.png": (_half("PNG"), "not a readable image"),
    "cut.jpeg": (_half("JPEG"), "not a readable image"),
    "cut.webp": (_half("WEBP"), "not a readable image"),
    "cut.tif": (_half("TIFF"), "not a readable image"),
    "checksum.png": (_with_bad_checksum, "not a readable image"),
    "text.png": (_bytes(lambda: b"Data_Entry_2017.csv\n" * 20), "none of the formats PNG, JPEG"),
    "page.jpeg": (_bytes(lambda: b"<!DOCTYPE html><html>Sign in"), "none of the formats"),
    "program.png": (_bytes(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "none"),
    "dot.png": (lambda path: Image.new("L", (1, 1)).save(path), "1 x 1 pixels; 4 x 4 are the"),
    "line.jpeg": (lambda path: Image.new("L", (500, 3)).save(path), "4 x 4 are the least"),
    "bomb.png": (lambda path: png(path, 30_000, 30_000, 8, 0, b""), "pixels"),
    "bomb.bmp": (
        _bytes(
            lambda: (
                b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 20000, 20000, 1, 8, *[0] * 6)
            )
        ),
        "pixels",
    ),
    "float.tif": (
        lambda path: Image.fromarray(NOISE / np.float32(255)).save(path), "white is unknown",
    ),
    "32bit.tif": (
        lambda path: Image.fromarray(NOISE.astype(np.int32) * 2**20).save(path), "white is unknown",
    ),
    "film.jpeg": (lambda path: (path.touch(), os.truncate(path, 2**40)), "bytes, more than"),
    "animated.gif": (
        lambda path: Image.fromarray(NOISE).save(
            path, save_all=True, append_images=[Image.fromarray(255 - NOISE)]
        ),
        "several pictures",
    ),
    "pages.tif": (
        lambda path: Image.fromarray(NOISE).save(
            path, save_all=True, append_images=[Image.fromarray(255 - NOISE)]
        ),
        "several pictures",
    ),
    "folder.png": (Path.mkdir, "a folder"),
    "pipe.png": (os.mkfifo, "no regular file"),
    "circle.png": (lambda path: path.symlink_to(path.name), "symbolic links"),
    # DICOM
    "text.dcm": (_bytes(lambda: b"no DICOM\n" * 40), "DICM does not stand at its byte 128"),
    "short.dcm": (_bytes(lambda: b"\0" * 128 + b"DICM"), "transfer syntax is missing"),
    "noise.dcm": (_bytes(lambda: b"\0" * 128 + b"DICM" + NOISE.tobytes()), "a DICOM file"),
    "cut.dcm": (_half_dicom, "its Pixel Data is cut short"),
    "no_picture.dcm": (lambda path: dicom(path), "no Pixel Data"),
    "no_rows.dcm": (lambda path: dicom(path, NOISE, Rows=None), "without a whole number as"),
    "bomb.dcm": (lambda path: dicom(path, NOISE, Rows=60_000, Columns=60_000), "60000 x 60000"),
    "zero.dcm": (lambda path: dicom(path, NOISE, Rows=0), "16 x 0 pixels"),
    "deflated_bomb.dcm": (_deflated_bomb, "inflates to more than"),
    "frames.dcm": (
        lambda path: dicom(path, NOISE, NumberOfFrames=2, PixelData=NOISE.tobytes() * 2),
        "2 frames",
    ),
    "hidden_frames.dcm": (
        lambda path: dicom(path, NOISE, PixelData=NOISE.tobytes() * 3), "and one frame has 256",
    ),
    "palette.dcm": (
        lambda path: dicom(path, NOISE, PhotometricInterpretation="PALETTE COLOR"),
        "Photometric Interpretation is none of",
    ),
    "samples.dcm": (
        lambda path: dicom(path, NOISE, PhotometricInterpretation="RGB"), "Samples per Pixel",
    ),
    "bits.dcm": (lambda path: dicom(path, NOISE, BitsStored=12), "12 bits stored in 8"),
    "32bits.dcm": (lambda path: dicom(path, NOISE, BitsAllocated=32), "8 or 16 are read"),
    "high_bit.dcm": (
        lambda path: dicom(path, NOISE.astype(np.uint16), BitsStored=12, HighBit=15), "High Bit",
    ),
    "padding.dcm": (
        lambda path: dicom(path, NOISE * 0 + 7, PixelPaddingValue=7), "every pixel of it is padding"
    ),
    "lut.dcm": (
        lambda path: dicom(
            path, NOISE, VOILUTSequence=[_short(lut("VOI", 0, [0, 9, 255], 8))]
        ),
        "its lookup table holds 3 of 256",
    ),
    "function.dcm": (
        lambda path: dicom(path, NOISE, VOILUTFunction="CUBIC", WindowCenter=1, WindowWidth=1),
        "VOI LUT Function is none of",
    ),
    "slope.dcm": (
        lambda path: edited(dicom(path, NOISE, RescaleSlope="1.25"), b"1.25", b"nan "),
        "is no number",
    ),
    "syntax.dcm": (
        lambda path: edited(dicom(path, NOISE), b"10008.1.2.1\0", b"10008.9.9.9\0"),
        "missing or unknown",
    ),
    "lossless.dcm": (
        lambda path: dicom(path, NOISE, JPEGLosslessSV1, PixelData=encapsulate([b"\xff\xd8"])),
        "JPEG Lossless",
    ),
    "film.dcm": (
        lambda path: dicom(path, NOISE, MPEG2MPML, PixelData=encapsulate([b"\0\0\1\xb3"])),
        "which is not read",
    ),
    "other_size.dcm": (_jpeg_in_dicom, "not as many as Rows x Columns"),
    "rle.dcm": (
        lambda path: dicom(path, NOISE, RLELossless, PixelData=encapsulate([bytes(64)])),
        "not decoded",
    ),
}  # fmt: skip


def _short(item: Dataset) -> Dataset:
    item.LUTDescriptor[0] = 256
    return item


def write_bad(folder: Path) -> None:
    """Write every file of :data:`BAD`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (write, _) in BAD.items():
        write(folder / name)
