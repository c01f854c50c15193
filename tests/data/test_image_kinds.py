"""PNG, BMP, GIF, WebP, PNM, JPEG, JPEG 2000: the greys of the definition, or a refusal by name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_tiff_greys import SIDE, error, greys, luma, samples

from xraygan import UserError
from xraygan.data.images import read_grey

# -- PNG -------------------------------------------------------------------------------------------

ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1)]  # fmt: skip
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bits_of(row: np.ndarray, bits: int) -> bytes:
    """Samples of a row, the first in the highest bits."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((row.ravel()[:, None] >> places & 1).astype(np.uint8)).tobytes()


def filtered(rows: np.ndarray, bits: int) -> bytes:
    """Rows with PNG's filters none, sub and up in turn."""
    lines = [np.frombuffer(bits_of(row, bits), np.uint8) for row in rows]
    step = max(1, bits * int(np.prod(rows.shape[2:])) // 8)
    found = b""
    for i, line in enumerate(lines):
        left = np.concatenate([np.zeros(step, np.uint8), line])[: len(line)]
        before = [np.zeros_like(line), left, lines[i - 1] if i else np.zeros_like(line)][i % 3]
        found += bytes([i % 3]) + (line - before).tobytes()
    return found


def png(
    path: Path, values: np.ndarray, bits: int, colour: int, *, interlaced: bool = False,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> Path:  # fmt: skip
    """Write ``(H, W)`` or ``(H, W, C)`` samples, with further chunks before them."""
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    data = b"".join(filtered(values[y::dy, x::dx], bits) for y, x, dy, dx in passes)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts))
    return path


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "colour"),
    [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (16, 4), (8, 6), (16, 6)],
)
def test_png(bits: int, colour: int, interlaced: bool, tmp_path: Path) -> None:
    """Transparency is dropped; gamma and significant bits change nothing."""
    values, white = samples(bits, CHANNELS[colour]), 2**bits - 1
    expected = greys(values if colour == 0 else values[..., 0], 0, white)
    if colour in (2, 6):
        expected = luma(values[..., :3], white)
    transparent = {0: b"\0\1", 2: b"\0\1\0\2\0\3"}.get(colour)
    more = [(b"gAMA", struct.pack(">I", 100_000)), (b"sBIT", bytes([1] * CHANNELS[colour]))]
    more += [(b"tRNS", transparent)] if transparent else []
    for chunks in ((), more):
        file = png(tmp_path / "a.png", values, bits, colour, interlaced=interlaced, chunks=chunks)
        # Pillow cuts 16 bits with colour or alpha to 8.
        assert error(file, expected) <= (1.51 if bits == 16 and colour else 0.51)
    if bits == 16 and colour == 0:
        assert error(file, greys(values, 500, 9000), (500, 9000)) <= 0.51


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_with_a_palette(bits: int, interlaced: bool, tmp_path: Path) -> None:
    values, colours = samples(bits), samples(8, 3).reshape(-1, 3)[: 2**bits]
    chunks = [(b"PLTE", colours.astype(np.uint8).tobytes()), (b"tRNS", bytes(2**bits))]
    file = png(tmp_path / "a.png", values, bits, 3, interlaced=interlaced, chunks=chunks)
    assert error(file, luma(colours[values], 255)) <= 0.51


# -- BMP and GIF -----------------------------------------------------------------------------------


def bmp(
    path: Path, rows: list[bytes] | bytes, bits: int, *, compression: int = 0, top: bool = False,
    palette: np.ndarray | None = None, masks: Sequence[int] = (),
) -> Path:  # fmt: skip
    """Write rows from above, or packed data; a row begins at four bytes."""
    if isinstance(rows, list):
        rows = b"".join(row + bytes(-len(row) % 4) for row in (rows if top else rows[::-1]))
    table = b"" if palette is None else palette.astype(np.uint8).tobytes()
    table = struct.pack(f"<{len(masks)}I", *masks) + table
    begin = 54 + len(table)
    height = -SIDE if top else SIDE
    path.write_bytes(
        b"BM" + struct.pack("<IIIIiiHH", begin + len(rows), 0, begin, 40, SIDE, height, 1, bits)
        + struct.pack("<6I", compression, len(rows), 0, 0, len(palette) if palette is not None
                      else 0, 0) + table + rows
    )  # fmt: skip
    return path


def table_of(bits: int) -> np.ndarray:
    """Colours as BMP stores them: blue, green, red, 0."""
    found = samples(8, 4).reshape(-1, 4)[: 2**bits]
    found[:, 3] = 0
    return found


@pytest.mark.parametrize("top", [False, True])
def test_bmp(top: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.bmp"
    for bits in (1, 4, 8):
        values, table = samples(bits), table_of(bits)
        rows = [bits_of(row, bits) for row in values]
        bmp(file, rows, bits, palette=table, top=top)
        assert error(file, luma(table[values][..., 2::-1], 255)) <= 0.51, bits
        ramp = np.repeat(np.arange(2**bits)[::-1, None] * (255 // (2**bits - 1)), 4, axis=1)
        bmp(file, rows, bits, palette=ramp, top=top)
        assert error(file, ramp[:, 0][values]) == 0, bits
    for bits in (24, 32):
        values = samples(8, bits // 8)
        bmp(file, [row.astype(np.uint8).tobytes() for row in values], bits, top=top)
        assert error(file, luma(values[..., 2::-1], 255)) <= 0.51
    values = samples(16)
    rows = [row.astype("<u2").tobytes() for row in values]
    for masks, green, red in (((), 5, 10), ((0xF800, 0x7E0, 0x1F), 6, 11)):
        bmp(file, rows, 16, compression=3 if masks else 0, masks=masks, top=top)
        shares = [
            (values >> red & 31) / 31, (values >> 5 & 2**green - 1) / (2**green - 1),
            (values & 31) / 31,
        ]  # fmt: skip
        assert error(file, luma(np.dstack(shares), 1)) <= 1.51  # 5 bits are filled up
    bmp(file, rows, 16, compression=3, masks=(0xF00, 0xF0, 0xF), top=top)
    with pytest.raises(UserError, match="bitfields layout"):
        read_grey(file, SIDE)


def test_bmp_with_run_lengths(tmp_path: Path) -> None:
    file, end = tmp_path / "a.bmp", b"\0\1"
    values, table = samples(8), table_of(8)
    runs = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in values[::-1])
    plain = b"".join(bytes([0, SIDE, *row]) + b"\0\0" for row in values[::-1])
    for data in (runs, plain):
        bmp(file, data + end, 8, compression=1, palette=table)
        assert error(file, luma(table[values][..., 2::-1], 255)) <= 0.51
    values, table = samples(4), table_of(4)
    pairs = [[int(a) << 4 | int(b) for a, b in row.reshape(-1, 2)] for row in values[::-1]]
    runs = b"".join(b"".join(bytes([2, v]) for v in row) + b"\0\0" for row in pairs)
    plain = b"".join(bytes([0, SIDE, *row, 0]) + b"\0\0" for row in pairs)
    for data in (runs, plain):
        bmp(file, data + end, 4, compression=2, palette=table)
        assert error(file, luma(table[values][..., 2::-1], 255)) <= 0.51


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("local", [False, True])
def test_gif(local: bool, interlaced: bool, tmp_path: Path) -> None:
    values, colours = samples(8), samples(8, 3).reshape(-1, 3)[:256]
    table = colours.astype(np.uint8).tobytes()
    order = [*range(0, SIDE, 8), *range(4, SIDE, 8), *range(2, SIDE, 4), *range(1, SIDE, 2)]
    pixels = values[order if interlaced else slice(None)].ravel().tolist()
    codes = [c for i in range(0, len(pixels), 120) for c in (256, *pixels[i : i + 120])] + [257]
    bits = (np.array(codes)[:, None] >> np.arange(9) & 1).astype(np.uint8)  # the lowest first
    data = np.packbits(bits, bitorder="little").tobytes()
    blocks = b"".join(bytes([len(d)]) + d for d in (data[i : i + 255] for i in range(0, len(data), 255)))  # noqa: E501  # fmt: skip
    flags = 0x87 if local else 0
    head = b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0 if local else 0x87, 0, 0)
    head += b"" if local else table
    head += b"!\xf9\4\1\0\0\7\0"  # the colour 7 is transparent
    picture = b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, flags | 0x40 * interlaced)
    picture += (table if local else b"") + b"\x08" + blocks + b"\0"
    (tmp_path / "a.gif").write_bytes(head + picture + b";")
    assert error(tmp_path / "a.gif", luma(colours[values], 255)) <= 0.51
    (tmp_path / "a.gif").write_bytes(head + picture * 2 + b";")
    with pytest.raises(UserError, match="several pictures"):
        read_grey(tmp_path / "a.gif", SIDE)


# -- WebP and PNM ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_webp(mode: str, tmp_path: Path) -> None:
    values = samples(8, len(mode)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.webp", lossless=True, exact=True)
    colours = values[..., :3] if len(mode) > 1 else np.dstack([values] * 3)
    assert error(tmp_path / "a.webp", luma(colours, 255)) <= 0.51
    smooth = np.add.outer(7 * np.arange(SIDE), 5 * np.arange(SIDE)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.webp", quality=100)
    assert error(tmp_path / "a.webp", smooth) <= 6


@pytest.mark.parametrize("most", [1, 7, 100, 255, 300, 1000, 4095, 40000, 65535])
def test_pnm(most: int, tmp_path: Path) -> None:
    """Colours are rounded before they become grey, so 1 of 255 may be lost."""
    file = tmp_path / "a.pnm"
    for channels, kinds in ((1, ("P5", "P2")), (3, ("P6", "P3"))):
        values = samples(16, channels) % (most + 1)
        expected = greys(values, 0, most) if channels == 1 else luma(values, most)
        for kind in kinds:
            head = f"{kind} # a comment\n{SIDE} {SIDE}\n{most}\n".encode()
            binary = values.astype(">u2" if most > 255 else np.uint8).tobytes()
            text = " ".join(map(str, values.ravel())).encode()
            file.write_bytes(head + (binary if kind in ("P5", "P6") else text))
            assert error(file, expected) <= (0.51 if channels == 1 else 1.01), kind
            if channels == 1 and most > 255:
                span = (most * 0.2, most * 0.7)
                assert error(file, greys(values, *span), span) <= 0.75


def test_pnm_of_bits_and_of_floating_point(tmp_path: Path) -> None:
    file, bits = tmp_path / "a.pbm", samples(1)
    for kind in (b"P1", b"P4"):  # 1 is black
        text = "".join(map(str, bits.ravel())).encode()
        rows = text if kind == b"P1" else b"".join(bits_of(row, 1) for row in bits)
        file.write_bytes(b"%b %d %d\n" % (kind, SIDE, SIDE) + rows)
        assert error(file, 255 * (1 - bits)) == 0
    for scale, order in ((-1.0, "<"), (1.0, ">"), (2.5, ">")):
        values = np.random.default_rng(0).normal(0, 3, (SIDE, SIDE)).astype(f"{order}f4")
        file.write_bytes(f"Pf\n{SIDE} {SIDE}\n{scale}\n".encode() + values[::-1].tobytes())
        assert error(file, greys(values, -2, 5), (-2.0, 5.0)) <= 0.51
        with pytest.raises(UserError, match="white is unknown"):
            read_grey(file, SIDE)
    file.write_bytes(b"PyP\n%d %d\n255\n" % (SIDE, SIDE) + bytes(SIDE**2))
    with pytest.raises(UserError, match="a palette image without its palette"):
        read_grey(file, SIDE)


# -- JPEG and JPEG 2000 ----------------------------------------------------------------------------

BLOCKS = np.kron(samples(8, 4)[:3, :3], np.ones((8, 8, 1), int))[:SIDE, :SIDE].astype(np.uint8)


def jpeg(pixels: np.ndarray, mode: str, **how: Any) -> bytearray:
    Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()).save(
        stream := BytesIO(), "JPEG", quality=100, **how
    )
    return bytearray(stream.getvalue())


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(progressive: bool, tmp_path: Path) -> None:
    file, how = tmp_path / "a.jpeg", {"progressive": progressive}
    file.write_bytes(jpeg(BLOCKS[..., 0].copy(), "L", **how))
    assert error(file, BLOCKS[..., 0]) <= 1
    for more in ({}, {"keep_rgb": True}):
        file.write_bytes(jpeg(BLOCKS[..., :3].copy(), "RGB", subsampling=0, **how, **more))
        assert error(file, luma(BLOCKS[..., :3], 255)) <= 2
    file.write_bytes(whole := jpeg(BLOCKS, "CMYK", **how))
    left = (1 - BLOCKS[..., :3] / 255) * (1 - BLOCKS[..., 3:] / 255)
    assert error(file, luma(left, 1)) <= 2
    # YCCK: the same inks as YCbCr of their complement. Pillow, that writes it as four inks, turns
    # each round once.
    ycc = np.asarray(Image.fromarray(BLOCKS[..., :3].copy()).convert("YCbCr"))
    packed = jpeg(np.dstack([255 - ycc, BLOCKS[..., 3]]), "CMYK", **how)
    packed[packed.index(b"Adobe") + 11] = 2
    file.write_bytes(packed)
    assert error(file, luma(left, 1)) <= 3
    at = whole.index(b"Adobe") - 4
    del whole[at : at + 2 + int.from_bytes(whole[at + 2 : at + 4], "big")]
    file.write_bytes(whole)
    with pytest.raises(UserError, match="does not say whether 0 is full ink; convert it to a PNG"):
        read_grey(file, SIDE)


def test_a_jpeg_of_12_bits_is_refused_by_its_name(tmp_path: Path) -> None:
    whole = jpeg(BLOCKS[..., 0].copy(), "L")
    whole[whole.index(b"\xff\xc0") + 1] = 0xC1
    whole[whole.index(b"\xff\xc1") + 4] = 12
    (tmp_path / "a.jpeg").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.jpeg: .*a JPEG of 12-bit samples .* convert it"):
        read_grey(tmp_path / "a.jpeg", SIDE)


def jpeg2000(path: Path, pixels: np.ndarray, bits: int, *, signed: bool = False) -> Path:
    """Pillow writes 8 and 16 bits: what has that many is said to have others."""
    Image.fromarray(pixels).save(stream := BytesIO(), "JPEG2000", no_jp2=path.suffix == ".j2k")
    whole = bytearray(stream.getvalue())
    whole[whole.index(b"\xff\x4f\xff\x51") + 42] = bits - 1 | 0x80 * signed
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_jpeg_2000(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    for bits in (8, 9, 10, 12, 15, 16):
        values = samples(bits)
        # As many, of the level shift of the bits that are said instead of those that are written.
        written = values + (2**15 - 2 ** (bits - 1) if bits > 8 else 0)
        jpeg2000(file, written.astype(np.uint16 if bits > 8 else np.uint8), bits)
        assert error(file, greys(values, 0, 2**bits - 1)) <= 0.51, bits
        if bits > 8:
            span = (2**bits * 0.2, 2**bits * 0.7)
            assert error(file, greys(values, *span), span) <= 0.51, bits
    for channels in (2, 3, 4):
        values = samples(8, channels).astype(np.uint8)
        Image.fromarray(values).save(file, "JPEG2000", no_jp2=name == "a.j2k", mct=0)
        expected = luma(values[..., :3], 255) if channels > 2 else values[..., 0]
        assert error(file, expected) <= 0.51
    for bits, signed in ((4, False), (8, True), (12, True), (17, False)):
        jpeg2000(file, samples(16).astype(np.uint16), bits, signed=signed)
        with pytest.raises(UserError, match="JPEG 2000 of signed samples, or of other than 8 to"):
            read_grey(file, SIDE)


def test_bits_of_jpeg_2000_are_those_of_its_code_stream(tmp_path: Path) -> None:
    """However far behind that begins, and whatever stands before."""
    file = jpeg2000(tmp_path / "a.jp2", (samples(12) + 2**15 - 2**11).astype(np.uint16), 12)
    whole = file.read_bytes()
    at = whole.index(b"jp2c") - 4
    other = b"\xff\x4f\xff\x51" + bytes(38) + b"\x07" + bytes(70_000)
    box = struct.pack(">I4s", len(other) + 8, b"free") + other
    file.write_bytes(whole[:at] + box + whole[at:])
    assert error(file, greys(samples(12), 0, 4095)) <= 0.51
