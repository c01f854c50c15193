"""Files that would become far larger than they are: refused before memory or time is spent."""

from __future__ import annotations

import ctypes
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from malformed_images import NOISE, dicom, saved
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from test_image_kinds import chunk
from tiffs import DEFLATE, joined

from xraygan import UserError
from xraygan.data.greys import Grey
from xraygan.data.images import read_grey

MIB = 2**20
PNG = b"\x89PNG\r\n\x1a\n"


def zeros(count: int) -> bytes:
    """So many zero bytes, deflated to a thousandth in no time: a block repeated."""
    packer = zlib.compressobj(9)
    start = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (count // MIB) + rest + b"\3\0" + struct.pack(">HH", count % 65521, 1)


def png(path: Path, side: int, bits: int, colour: int, *chunks: tuple[bytes, bytes]) -> None:
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    path.write_bytes(PNG + b"".join(chunk(kind, data) for kind, data in parts))


SMALL = zlib.compress(b"".join(b"\0" + row.tobytes() for row in NOISE))  # 16 x 16 pixels of 8 bits


def png_with(kind: bytes, data: bytes) -> Callable[[Path], object]:
    """A small PNG with a chunk of a gibibyte of text or of a profile."""
    return lambda path: png(path, 16, 8, 0, (kind, data + zeros(2**30)), (b"IDAT", SMALL))


def large_tile(path: Path) -> None:
    """A picture of 16 x 16 whose one tile has 32,768 x 32,768."""
    tags = {256: 16, 257: 16, 258: 8, 259: DEFLATE, 262: 1, 277: 1, 322: 2**15, 323: 2**15}
    joined(path, tags, [zeros(2**30)], (324, 325), "<", big=False)


def colour_tiff(path: Path) -> None:
    tags = {256: 10_000, 257: 10_000, 258: [16] * 4, 259: DEFLATE, 262: 2, 277: 4, 278: 10_000}
    joined(path, {**tags, 338: 2}, [zeros(800_000_000)], (273, 279), "<", big=False)


def large_code_stream(path: Path, header: int = 16) -> None:
    whole = bytearray(saved(Image.fromarray(NOISE), "JPEG2000"))
    at = whole.index(b"\xff\x4f\xff\x51")
    for place in (8, 12, 24, 28):  # the picture, and its one tile
        whole[at + place : at + place + 4] = struct.pack(">I", 9900)
    at = whole.index(b"ihdr") + 4
    whole[at : at + 8] = struct.pack(">II", header, header)
    path.write_bytes(whole)


def many_components(path: Path) -> None:
    """JPEG 2000 in DICOM: one sample a pixel, and 16,384 in the code stream."""
    whole = bytearray(saved(Image.fromarray(NOISE), "JPEG2000", no_jp2=True))
    whole[40:42] = struct.pack(">H", 16384)
    dicom(path, NOISE, JPEG2000Lossless, PixelData=encapsulate([bytes(whole)]))


def webp(path: Path) -> None:
    """The header of a canvas of 16,384 x 16,384 before a picture of 16 x 16."""
    inner = saved(Image.fromarray(NOISE), "WEBP", lossless=True)[12:]
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + struct.pack("<I", 16383)[:3] * 2
    body = b"WEBP" + canvas + inner
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def run_lengths(path: Path) -> None:
    """Ends of lines alone: each of them is 10,000 black pixels."""
    rows = b"\0\0" * 10_000 + b"\0\1"
    table = bytes(range(256)) * 4
    head = struct.pack("<IIIIIIHH6I", 1078, 0, 1078, 40, 10_000, 10_000, 1, 8, 1, 0, 0, 0, 256, 0)
    path.write_bytes(b"BM" + head + table + rows)


def gif(path: Path) -> None:
    """A canvas of a few bytes, and a frame that makes it larger still."""
    head = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x80, 0, 0) + bytes(6)
    picture = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x4c\1\0"
    path.write_bytes(head + picture + b";")


def progressive(path: Path) -> None:
    """Its coefficients are kept, of two bytes each, until the last scan is read."""
    whole = bytearray(saved(Image.new("RGB", (256, 256)), "JPEG", progressive=True, subsampling=0))
    at = whole.index(b"\xff\xc2")
    whole[at + 5 : at + 9] = struct.pack(">HH", 9900, 9900)
    path.write_bytes(whole)


#: file name -> what writes it, and words of the message
BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "colour.png": (
        lambda path: png(path, 10_000, 16, 6, (b"IDAT", zeros(10_000 * 80_001))),
        "10000 x 10000 pixels of 8 bytes, and 268,435,456 bytes are the most",
    ),
    "text.png": (png_with(b"zTXt", b"a\0\0"), "too large"),
    "itext.png": (png_with(b"iTXt", b"a\0\1\0\0\0"), "too large"),
    "profile.png": (png_with(b"iCCP", b"a\0\0"), "too large"),
    "tile.tif": (large_tile, "32768 x 32768 pixels of 1 bytes, and 268,435,456 bytes are the most"),
    "colour.tif": (colour_tiff, "10000 x 10000 pixels of 8 bytes"),
    "other.jp2": (large_code_stream, "of different pictures"),
    "large.jp2": (lambda path: large_code_stream(path, 9900), "9900 x 9900 pixels of 4 bytes"),
    "canvas.webp": (webp, "pixels"),
    "runs.bmp": (run_lengths, "its run lengths leave most of its pixels out"),
    "frame.gif": (gif, "pixels"),
    "progressive.jpeg": (progressive, "9900 x 9900 pixels of 6 bytes"),
    "colour.dcm": (
        lambda path: dicom(path, np.zeros((4, 4, 3), np.uint16), Rows=9000, Columns=9000),
        "9000 x 9000 pixels of 6 bytes",
    ),
    "components.dcm": (many_components, "not as many as Rows x Columns"),
}


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that this process had in memory at most during a call, beyond those before it."""
    ctypes.CDLL(None).malloc_trim(0)  # or memory freed before would be taken anew, unseen
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what)))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(name: str, tmp_path: Path) -> None:
    write, words = BOMBS[name]
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 2 * MIB

    def refused() -> None:
        with pytest.raises(UserError) as caught:
            read_grey(tmp_path / name, 16)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert words in str(caught.value), str(caught.value)

    assert peak_of(refused) < 32 * MIB


def test_what_a_stream_holds_beyond_the_picture_is_not_inflated(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 16, 8, 0, (b"IDAT", zeros(2**30)))
    tags = {256: 16, 257: 16, 258: 8, 259: DEFLATE, 262: 1, 277: 1, 278: 16}
    joined(tmp_path / "a.tif", tags, [zeros(2**30)], (273, 279), "<", big=False)
    for name in ("a.png", "a.tif"):
        assert peak_of(lambda name=name: read_grey(tmp_path / name, 16)) < 32 * MIB


@pytest.mark.parametrize(("bits", "grey"), [(8, "full"), (16, "full"), (16, "image")])
def test_a_large_picture_takes_a_few_times_its_bytes(bits: int, grey: Grey, tmp_path: Path) -> None:
    """Of which the memory is seen, so that the limits above mean something."""
    png(tmp_path / "a.png", 8000, bits, 0, (b"IDAT", zeros(8000 * (8000 * bits // 8 + 1))))
    most = peak_of(lambda: read_grey(tmp_path / "a.png", 16, grey))
    assert 8000**2 < most < 6 * 8000**2 * bits // 8
