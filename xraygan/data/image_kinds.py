"""Kinds of image files that Pillow would read wrongly, or that would fill the memory.

Each is refused before any pixel is decoded; the message says what it is and what to do.
"""

from __future__ import annotations

import os
import struct
from io import BufferedReader
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

#: the most bytes of an image file, and of its decoded samples; 100,000,000 pixels of 16 bits fit
MAX_BYTES = 2**28
CONVERT = "convert it to a PNG of 8-bit or 16-bit greys"

#: modes of Pillow whose greys are known
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "F", "I", "I;16", "I;16B"}

#: the first bytes of a file -> its format
SIGNATURES = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"II+\0": "TIFF", b"MM\0+": "TIFF", b"BM": "BMP", b"GIF8": "GIF", b"RIFF": "WebP",
    b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
}  # fmt: skip

# Tags of TIFF, and values of them.
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 258, 259, 262, 277, 284
COLOURS, TILE_WIDTH, TILE_HEIGHT, EXTRA, FORMAT = 320, 322, 323, 338, 339
NONE, JPEGS = 1, (6, 7)
WHITE_IS_ZERO, RGB, PALETTE, YCBCR = 0, 2, 3, 6
SIGNED, FLOAT = 2, 3


def white_level(image: Image.Image, file: BufferedReader) -> int:
    """The greatest value that the samples of an opened file can have; it need not be loaded.

    Raises:
        ValueError: Pillow would not read the greys that the file holds, or they need more than
            :data:`MAX_BYTES`.
    """
    if image.mode not in MODES:
        raise ValueError(f"pixels of the mode {image.mode}, which is not read; {CONVERT}")
    size = {"JPEG": 2, "MPO": 2, "JPEG2000": 4}.get(image.format or "", 1)  # as they are decoded
    if image.format == "TIFF":
        white = _tiff_white_level(image)
    elif image.format == "JPEG2000":
        white = _jpeg2000_white_level(image, file)
    else:
        white = _other_white_level(image, file)
    wide = 4 if image.mode in ("I", "F") else 2 if white > 255 else 1
    check_bytes(image.size, len(image.getbands()) * max(size, wide))
    return white


def check_bytes(size: tuple[int, int], each: int) -> None:
    """Refuse pixels of ``each`` bytes that would fill the memory.

    Raises:
        ValueError: they need more than :data:`MAX_BYTES`.
    """
    width, height = size
    if width * height * each > MAX_BYTES:
        raise ValueError(
            f"{width} x {height} pixels of {each} bytes, and {MAX_BYTES:,} bytes are the most"
        )


def _other_white_level(image: Image.Image, file: BufferedReader) -> int:
    # Of CMYK in JPEG only Adobe's marker says that 0 is full ink.
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise ValueError(f"a CMYK JPEG that does not say whether 0 is full ink; {CONVERT}")
    if image.format == "PPM" and image.mode == "P":
        raise ValueError(f"a palette image without its palette; {CONVERT}")
    runs = image.format == "BMP" and image.info.get("compression") in (1, 2)
    if runs and image.width * image.height > 128 * os.fstat(file.fileno()).st_size:
        # Two bytes say 255 pixels at most.
        raise ValueError("its run lengths leave most of its pixels out")
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    if isinstance(arguments, tuple) and image.format == "PPM" and image.mode != "F":
        return max(int(arguments[-1]), 255)
    return 65535 if "16B" in str(arguments) else 255


# -- TIFF ------------------------------------------------------------------------------------------


def _tiff_white_level(image: Image.Image) -> int:
    tags = image.tag_v2  # type: ignore[attr-defined]
    if fault := _find_tiff_fault(tags, image.mode):
        raise ValueError(f"{fault}; {CONVERT}")
    bits = max(tags.get(BITS, (1,)))
    if TILE_WIDTH in tags:  # a tile may be larger than its picture
        each = -(-sum(tags.get(BITS, (1,))) // 8)
        check_bytes((int(tags[TILE_WIDTH]), int(tags.get(TILE_HEIGHT, 1))), each)
    if bits > 16:
        return 65535
    return 2 ** (bits - 1) - 1 if _sample_format(tags) == SIGNED else 2 ** max(bits, 8) - 1


def _sample_format(tags: Any) -> int:
    """The first value of SampleFormat; Pillow opens no file with several."""
    value = tags.get(FORMAT, 1)
    return int(value[0]) if isinstance(value, tuple) else int(value)


def _find_tiff_fault(tags: Any, mode: str) -> str:
    """The kind of a TIFF that Pillow opens and reads wrongly; "" for any other."""
    bits, photometric, kind = tags.get(BITS, (1,)), tags.get(PHOTOMETRIC), _sample_format(tags)
    compression, samples = tags.get(COMPRESSION, NONE), tags.get(SAMPLES, 1)
    if photometric is None:
        return "a TIFF without PhotometricInterpretation, which says whether 0 is black or white"
    if kind == SIGNED and max(bits) == 8:
        return "a TIFF of signed 8-bit samples"
    if tags.prefix == b"MM" and compression != NONE and (kind != 1 or max(bits) == 32):
        # libtiff gives the values in the processor's byte order, and Pillow swaps them again.
        return f"a compressed big-endian TIFF of {_describe_samples(bits, kind)} samples"
    apart = tags.get(PLANAR, 1) == 2 and samples > 1
    if apart and not (photometric == RGB and samples == 3 and max(bits) == 8):
        return f"a TIFF whose {samples} colours of {max(bits)} bits are stored apart"
    if photometric == YCBCR and compression not in JPEGS:
        return "a TIFF of YCbCr colours that are not compressed as JPEG"
    if photometric == PALETTE and max(tags.get(COLOURS, (0,))) < 256:
        return "a TIFF whose palette has 8-bit colours, where 16-bit ones must be"
    return ""


def _describe_samples(bits: tuple[int, ...], kind: int) -> str:
    name = {SIGNED: "signed ", FLOAT: "floating-point "}.get(kind, "")
    return f"{name}{max(bits)}-bit"


def is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white in values that Pillow gives as the file stores them."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def is_unsigned(image: Image.Image) -> bool:
    """Whether Pillow's signed 32 bits stand for unsigned ones."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(BITS) == (32,) and _sample_format(tags) == 1


# -- JPEG 2000 -------------------------------------------------------------------------------------


def _jpeg2000_white_level(image: Image.Image, file: BufferedReader) -> int:
    """From the SIZ segment (ISO 15444-1, A.5.1), which need not agree with the file's header."""
    at = file.tell()
    head = _code_stream(file)
    file.seek(at)
    x, y, x0, y0 = struct.unpack_from(">4I", head, 8)
    count = int.from_bytes(head[40:42], "big")
    if (x - x0, y - y0) != image.size or count != len(image.getbands()):
        raise ValueError("its header and its code stream are of different pictures")
    depths = {head[42 + 3 * i] for i in range(count)}
    bits = (max(depths) & 0x7F) + 1
    least = 1 if image.mode in ("P", "PA") else 8
    if len(depths) > 1 or max(depths) & 0x80 or not least <= bits <= 16:
        raise ValueError(
            f"JPEG 2000 of signed samples, or of other than 8 to 16 bits, is not read; {CONVERT}"
        )
    return 2 ** max(bits, 8) - 1


def _code_stream(file: BufferedReader) -> bytes:
    """The first bytes of the code stream, which is the file itself or lies in one of its boxes."""
    offset = 0
    file.seek(offset)
    if file.read(2) != b"\xff\x4f":
        while True:
            file.seek(offset)
            length, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            head, length = (16, long) if length == 1 else (8, length)
            if kind == b"jp2c":
                offset += head
                break
            if length < head:
                raise ValueError("it has no code stream")
            offset += length
    file.seek(offset)
    start = file.read(42 + 3 * 4)
    if len(start) < 42 + 3 * 4 or start[2:4] != b"\xff\x51":
        raise ValueError("its code stream is damaged")
    return start


# -- files that Pillow does not open ---------------------------------------------------------------


def describe_unopened(file: BufferedReader) -> str:
    """The kind of a file that Pillow does not open, as the end of a sentence; "" if no image."""
    file.seek(0)
    head = file.read(16)
    [form] = [f for start, f in SIGNATURES.items() if head.startswith(start)][:1] or [""]
    kind = f"a {form} file"
    if form == "TIFF":
        kind = _describe_tiff(file, head)
    elif form == "JPEG":
        file.seek(0)
        kind = _describe_jpeg(file.read(2**16))
    return f"{kind} that is damaged or of a kind that is not read; {CONVERT}" if form else ""


def _describe_tiff(file: BufferedReader, head: bytes) -> str:
    if head.startswith(b"MM\0+"):
        return "a big-endian BigTIFF"
    try:
        tags = ImageFileDirectory_v2(head if head[2] == 43 else head[:8])
        file.seek(tags.next)
        tags.load(file)
        bits, kind = tags.get(BITS, (1,)), _sample_format(tags)
        order = "big-endian " if tags.prefix == b"MM" else ""
        return (
            f"a {order}TIFF of {len(bits)} {_describe_samples(bits, kind)} samples a pixel "
            f"(PhotometricInterpretation {int(tags.get(PHOTOMETRIC, 0))}, "
            f"Compression {int(tags.get(COMPRESSION, NONE))})"
        )
    except Exception:  # it is damaged
        return "a TIFF file"


def _describe_jpeg(data: bytes) -> str:
    at = 2
    while data[at : at + 1] == b"\xff" and at + 5 <= len(data):
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            return f"a JPEG of {data[at + 4]}-bit samples"
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return "a JPEG file"
