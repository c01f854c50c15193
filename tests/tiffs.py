"""TIFF files written by hand, byte by byte, of kinds that Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NONE, LZW, JPEG, DEFLATE, PACKBITS = 1, 5, 7, 8, 32773
UINT, INT, FLOAT = 1, 2, 3  # of SampleFormat
#: type number -> how struct writes it
TYPES = {3: "H", 4: "I"}


def packed(samples: np.ndarray, bits: int, order: str, kind: int) -> bytes:
    """Rows of samples ``(H, N)`` as TIFF 6.0 stores them; each row begins at a byte."""
    if bits in (8, 16, 32, 64):
        return samples.astype(f"{order}{'?uif'[kind]}{bits // 8}").tobytes()
    places = np.arange(bits - 1, -1, -1)
    row = (samples.astype(np.int64)[..., None] >> places & 1).reshape(len(samples), -1)
    return np.packbits(row.astype(np.uint8), axis=1).tobytes()


def differences(samples: np.ndarray, channels: int) -> np.ndarray:
    """Each sample of a row ``(H, N)`` less that of the pixel before it (predictor 2)."""
    before = np.zeros_like(samples)
    before[:, channels:] = samples[:, :-channels]
    return samples - before


def float_differences(samples: np.ndarray) -> bytes:
    """Predictor 3 (Adobe's technical note 3): a row's first bytes, its second bytes, ..."""
    size = samples.dtype.itemsize
    planes = samples.astype(f">f{size}").view(np.uint8).reshape(*samples.shape, size)
    rows = planes.transpose(0, 2, 1).reshape(len(samples), -1)
    return differences(rows, 1).tobytes()


def lzw(data: bytes) -> bytes:
    """Codes of 9 bits alone: the table is cleared before it needs 10."""
    codes: list[int] = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    places = np.arange(8, -1, -1)
    return np.packbits((np.array([*codes, 257])[:, None] >> places & 1).astype(np.uint8)).tobytes()


def packbits(data: bytes) -> bytes:
    parts = [data[i : i + 128] for i in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def pieces(
    values: np.ndarray, tile: int, rows: int, planar: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Strips or tiles ``(h, w C)`` of ``(H, W, C)``, a plane after another if they are apart."""
    height, width, channels = values.shape
    for plane in [values] if planar == 1 else [values[..., i : i + 1] for i in range(channels)]:
        for top in range(0, height, tile or rows):
            for left in range(0, width, tile or width):
                part = plane[top : top + (tile or rows), left : left + (tile or width)]
                if tile:
                    ends = [(0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)]
                    part = np.pad(part, ends, "edge")
                yield part.reshape(len(part), -1), part.shape[2]


def tiff(
    path: Path,
    values: np.ndarray,
    bits: int,
    *,
    order: str = "<",
    photometric: int | None = 1,
    kind: int = UINT,
    compression: int = NONE,
    predictor: int = 1,
    fill: int = 1,
    planar: int = 1,
    tile: int = 0,
    rows: int = 5,
    big: bool = False,
    palette: list[int] | None = None,
    extra: int | None = None,
    **more: Any,
) -> Path:
    """Write ``(H, W)`` or ``(H, W, C)`` samples.

    Args:
        order: ``"<"`` (II) or ``">"`` (MM).
        kind: SampleFormat.
        tile: side of a tile; 0 for strips of ``rows`` rows.
        big: BigTIFF.
        extra: what the last channel is (ExtraSamples).
        more: further tags, as ``t32997=...``, which win over those that follow from the values.
    """
    values = values if values.ndim == 3 else values[..., None]
    data = []
    for part, channels in pieces(values, tile, rows, planar):
        part = differences(part, channels) if predictor == 2 else part
        chunk = float_differences(part) if predictor == 3 else packed(part, bits, order, kind)
        chunk = {LZW: lzw, DEFLATE: zlib.compress, PACKBITS: packbits}.get(compression, bytes)(
            chunk
        )
        if fill == 2:
            chunk = bytes(int(f"{byte:08b}"[::-1], 2) for byte in chunk)
        data.append(chunk)
    height, width, channels = values.shape
    tags: dict[int, Any] = {256: width, 257: height, 258: [bits] * channels, 259: compression}
    tags |= {277: channels, 284: planar, 339: [kind] * channels, 317: predictor, 266: fill}
    tags |= {322: tile, 323: tile} if tile else {278: rows}
    tags |= {} if photometric is None else {262: photometric}
    tags |= {} if palette is None else {320: palette}
    tags |= {} if extra is None else {338: extra}
    tags |= {int(name[1:]): value for name, value in more.items()}
    return joined(path, tags, data, (324, 325) if tile else (273, 279), order, big)


def joined(
    path: Path,
    tags: dict[int, Any],
    data: list[bytes],
    places: tuple[int, int],
    order: str,
    big: bool,
) -> Path:
    """The header, the data, and the directory with values that do not fit into it behind."""
    mark = b"MM" if order == ">" else b"II"
    body, at = b"", []
    start = 16 if big else 8
    for chunk in data:
        at.append(start + len(body))
        body += chunk + b"\0" * (len(chunk) % 2)
    tags |= {places[0]: at, places[1]: [len(chunk) for chunk in data]}
    directory = start + len(body)
    size, count, room = (20, "Q", 8) if big else (12, "H", 4)
    behind = directory + (8 if big else 2) + size * len(tags) + room
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        found = value if isinstance(value, list) else [value]
        form = 4 if tag in places or max(found) > 65535 else 3
        content = struct.pack(f"{order}{len(found)}{TYPES[form]}", *found)
        if len(content) > room:
            content, place = struct.pack(order + "IQ"[big], behind + len(values)), content
            values += place + b"\0" * (len(place) % 2)
        entries += struct.pack(f"{order}HH{'IQ'[big]}", tag, form, len(found))
        entries += content.ljust(room, b"\0")
    head = struct.pack(f"{order}2sH", mark, 43 if big else 42)
    head += (
        struct.pack(f"{order}HHQ", 8, 0, directory) if big else struct.pack(f"{order}I", directory)
    )
    directory_bytes = struct.pack(order + count, len(tags)) + entries + bytes(room)
    path.write_bytes(head + body + directory_bytes + values)
    return path
