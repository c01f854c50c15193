"""An image store on the disk: its pixels, what is known of them, and whether it is undamaged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xraygan.errors import UserError
from xraygan.utils.atomic_files import write_json

from .cache_folder import METADATA, PIXELS, STORE_VERSION, read_store_metadata
from .decode import digest_pixels, npy_header
from .file_digests import stamp
from .greys import DOUBTS


@dataclass(frozen=True)
class Doubtful:
    """Images of a store that can be read and may be ruined, all in the same way.

    Attributes:
        kind: a key of :data:`xraygan.data.greys.DOUBTS`.
        count: how many they are.
        paths: those of the first :data:`xraygan.data.image_cache.MAX_NAMED`.
    """

    kind: str
    count: int
    paths: list[str]

    def describe(self, images: int, names: int) -> str:
        """A sentence with their number, that of all ``images``, and the first ``names`` paths."""
        shown = ", ".join(self.paths[:names]) + (", ..." if self.count > names else "")
        return f"{self.count:,} of {images:,} images {DOUBTS.get(self.kind, self.kind)}: {shown}"


@dataclass(frozen=True)
class Store:
    """All images of a recipe's table, decoded.

    Attributes:
        folder: of the store.
        pixels: ``(M, S, S)`` uint8, mapped into memory: read from the disk when they are used.
        sha256: a digest of the pixels.
        bad: unreadable images, whose pixels are black: path -> reason.
        doubtful: images that can be read and may be ruined, by kind.
        seconds: how long decoding took; None if the store existed before.
        contents: the identity of each image (:meth:`xraygan.Dataset.identity`).
    """

    folder: Path
    pixels: Tensor
    sha256: str
    bad: dict[str, str]
    doubtful: list[Doubtful]
    seconds: float | None
    contents: Sequence[str] = ()

    def describe(self) -> str:
        """A few lines: whether images were decoded, which are left out, and the folder."""
        count, size = self.pixels.shape[:2]
        if self.seconds is None:
            done = "are there already"
        else:
            done = f"decoded in {self.seconds:.1f} s: {count / self.seconds:,.0f} images/s"
        lines = f"{count:,} images of {size} x {size} {done}"
        if self.bad:
            lines += f"\n{len(self.bad)} of them cannot be read and are left out:"
            lines += list_reasons(self.bad, 20)
        for doubtful in self.doubtful:
            lines += f"\n{doubtful.describe(count, 20)}"
        return f"{lines}\n{self.folder}"


def list_reasons(bad: dict[str, str], count: int = 5) -> str:
    """The first ``count`` reasons why images cannot be read, a line each."""
    shown = "".join(f"\n  {reason}" for reason in list(bad.values())[:count])
    return shown + (f"\n  and {len(bad) - count} more" if len(bad) > count else "")


def unreadable_images(bad: dict[str, str], count: int) -> UserError:
    """The error for images that cannot be read, ``bad`` of ``count``."""
    return UserError(
        f"{len(bad)} of {count} images cannot be read:{list_reasons(bad)}\n"
        'Replace them, or leave them out with --set data.on_bad_image="skip"'
    )


def read_store(folder: Path, count: int, size: int) -> Store | None:
    """The store in a folder; None unless it is complete and undamaged.

    ``store.json`` carries a digest of itself. The pixels are hashed only if the stamp of their file
    is another than when they were written: hashing all of them takes as long as reading them.
    """
    images, metadata = folder / PIXELS, read_store_metadata(folder)
    if metadata != with_seal(metadata) or not _is_valid(metadata) or not images.is_file():
        return None
    try:
        mapped = _map_pixels(images, count, size)
        if (now := stamp(images.stat())) != metadata.get("written"):
            if digest_pixels(mapped) != metadata["sha256"]:
                return None
            with suppress(OSError):
                write_json(folder / METADATA, with_seal(metadata | {"written": now}))
        with suppress(OSError):
            os.utime(folder / METADATA)  # the time of the last use
    except (OSError, ValueError):
        return None
    doubtful = [
        Doubtful(kind, counted["images"], counted["first"])
        for kind, counted in metadata["doubtful"].items()
    ]
    pixels = torch.from_numpy(mapped)
    return Store(folder, pixels, metadata["sha256"], metadata["bad"], doubtful, None)


def _map_pixels(images: Path, count: int, size: int) -> np.ndarray:
    """Map the pixels of a file into memory, ``(count, size, size)`` uint8.

    Raises:
        ValueError: the file has another length or header.
        OSError: it cannot be read.
    """
    header = npy_header(count, size)
    if not images.is_file() or images.stat().st_size != len(header) + count * size**2:
        raise ValueError("another length")
    with images.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError("another header")
    if not count:
        return np.zeros((0, size, size), dtype=np.uint8)
    # Copy on write: torch wants writable memory, and nothing writes to it.
    return np.memmap(images, np.uint8, "c", len(header), (count, size, size))


def with_seal(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A store's metadata with a digest of all of it, as ``seal``."""
    content = {name: value for name, value in metadata.items() if name != "seal"}
    text = json.dumps(content, sort_keys=True)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _is_valid(metadata: Mapping[str, Any]) -> bool:
    """Whether a store's metadata are of this version and have the expected types."""
    bad, doubtful = metadata.get("bad"), metadata.get("doubtful")
    return (
        metadata.get("version") == STORE_VERSION
        and isinstance(metadata.get("sha256"), str)
        and isinstance(bad, dict)
        and all(isinstance(reason, str) for reason in bad.values())
        and isinstance(doubtful, dict)
        and all(kind in DOUBTS and _is_count(counted) for kind, counted in doubtful.items())
    )


def _is_count(value: Any) -> bool:
    """Whether a value has the form ``{"images": int, "first": [path, ...]}``."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("images"), int)
        and isinstance(value.get("first"), list)
        and all(isinstance(path, str) for path in value["first"])
    )
