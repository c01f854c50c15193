"""Image stores: every image of a table, decoded once into a memory-mapped uint8 file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .decode import LoadFault, Progress, decode, digest_of, load
from .errors import UserError
from .index import asking, dataset_fault
from .interfaces import Dataset
from .paths import Folder
from .recipe import Recipe

#: raised whenever the same file would be decoded to other bytes, or a store holds other files
STORE_VERSION = 5
#: unreadable images that are tried again when a store is opened
RETRIES = 200


@dataclass(frozen=True)
class Store:
    """All images of a recipe's table, decoded.

    Attributes:
        folder: where they are kept.
        pixels: ``(M, S, S)`` uint8, mapped into memory: read from the disk when they are used.
        sha256: a digest of the pixels.
        bad: unreadable images, which are black here: path -> reason.
        seconds: how long decoding them took; None where that had been done before.
    """

    folder: Path
    pixels: Tensor
    sha256: str
    bad: dict[str, str]
    seconds: float | None

    def account(self) -> str:
        """What was done, what is left out and where the store is, in a few lines."""
        count, size = self.pixels.shape[:2]
        if self.seconds is None:
            done = "are there already"
        else:
            done = f"decoded in {self.seconds:.1f} s: {count / self.seconds:,.0f} images/s"
        lines = f"{count:,} images of {size} x {size} {done}"
        if self.bad:
            lines += f"\n{len(self.bad)} of them cannot be read and are left out:"
            lines += some_of(self.bad, 20)
        return f"{lines}\n{self.folder}"


def some_of(bad: dict[str, str], count: int = 5) -> str:
    """The first reasons why images cannot be read, a line each."""
    shown = "".join(f"\n  {reason}" for reason in list(bad.values())[:count])
    return shown + (f"\n  and {len(bad) - count} more" if len(bad) > count else "")


def unreadable(bad: dict[str, str], count: int) -> UserError:
    """What says that images cannot be read, ``bad`` of ``count``."""
    return UserError(
        f"{len(bad)} of {count} images cannot be read:{some_of(bad)}\n"
        'Replace them, or leave them out with --set data.on_bad_image="skip"'
    )


def cache_folder(recipe: Recipe) -> Path:
    """Where image stores are kept: ``[data] cache``, or the user's cache folder."""
    if recipe.tables.data.cache is not None:
        return Path(recipe.tables.data.cache).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xraygan"


def open_store(recipe: Recipe, dataset: Dataset, paths: list[str], progress: Progress) -> Store:
    """The store of every image of a table, written now unless it is there."""
    size = recipe.tables.data.image_size
    choice = recipe.choices["data"]
    with asking(choice, "identity()"):
        contents = [dataset.identity(path) for path in paths]
        identity = [STORE_VERSION, choice.part.name, choice.part.version, size]
        key = hashlib.sha256(json.dumps([identity, paths, contents]).encode()).hexdigest()[:32]
    folder = cache_folder(recipe) / key
    try:
        if (store := _usable(folder, dataset, len(paths), size)) is not None:
            return store
        _check_links(recipe, paths)
        if recipe.tables.data.on_bad_image == "stop":
            gone = [path for path, content in zip(paths, contents, strict=True) if not content]
            if bad := _tried(dataset, gone, size):
                raise unreadable(bad, len(paths))  # before the others are decoded in vain
        seconds = _write_store(folder, dataset, paths, size, progress)
    except LoadFault as fault:
        if choice.part.distribution == "xraygan":
            raise
        raise dataset_fault(choice, str(fault)) from fault
    except OSError as error:
        raise UserError(
            f"{folder}: the image store cannot be written ({error.strerror}); name another "
            "folder with --set data.cache=DIR"
        ) from error
    if (store := _read_store(folder, len(paths), size)) is None:
        raise UserError(
            f"{folder}: the image store was taken away or changed while it was opened; the same "
            "command decodes it anew"
        )
    return replace(store, seconds=seconds)


def _read_store(folder: Path, count: int, size: int) -> Store | None:
    """The store that a folder holds; None unless it is whole and what was written."""
    images = folder / "images.npy"
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        # Copy on write: torch wants writable memory, and nothing of ours writes to it.
        mapped = np.load(images, mmap_mode="c" if count else None)
        if mapped.shape != (count, size, size) or mapped.dtype != np.uint8:
            return None
        # Of a file that was touched or copied since, only its pixels can tell.
        if images.stat().st_mtime_ns != about["written"] and digest_of(mapped) != about["sha256"]:
            return None
        return Store(folder, torch.from_numpy(mapped), about["sha256"], dict(about["bad"]), None)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _usable(folder: Path, dataset: Dataset, count: int, size: int) -> Store | None:
    """The store that a folder holds; None where it is to be written anew.

    An image may have become readable without a change of its file: a decoder was installed, its
    mode was set. So the first of those that were not are tried again.
    """
    if (store := _read_store(folder, count, size)) is None:
        return None
    first = list(store.bad)[:RETRIES]
    now = _tried(dataset, first, size)
    return replace(store, bad=store.bad | now) if len(now) == len(first) else None


def _tried(dataset: Dataset, paths: Sequence[str], size: int) -> dict[str, str]:
    """Those of some images that cannot be read: path -> reason."""
    bad = {}
    for path in paths:
        try:
            load(dataset, path, size)
        except UserError as error:
            bad[path] = str(error)
    return bad


def _check_links(recipe: Recipe, paths: list[str]) -> None:
    """Refuse to decode what a symbolic link brings in from outside of the data's folder."""
    root = recipe.tables.data.root
    if root is None:
        return
    folder = Folder(Path(root))
    for path in paths:
        if folder.leaves(path):
            raise UserError(
                f"{root}: {path!r} leads out of this folder by a symbolic link, to "
                f"{folder.target(path)}; put the files themselves below data.root, or "
                "let data.root name the folder that holds them all"
            )


def _write_store(
    folder: Path, dataset: Dataset, paths: list[str], size: int, progress: Progress
) -> float | None:
    """Decode every image into a new store and move it into place when it is whole.

    Returns:
        How many seconds it took; None if another process was just doing it.

    Raises:
        OSError: there is no room for it, or the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.building")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _usable(folder, dataset, len(paths), size) is not None:
            return None
        shutil.rmtree(building, ignore_errors=True)  # what a killed process left
        if shutil.disk_usage(folder.parent).free < len(paths) * size**2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        building.mkdir()
        began = time.monotonic()
        try:
            images = building / "images.npy"
            digest, bad = decode(dataset, paths, size, images, progress)
            about = {"sha256": digest, "count": len(paths), "size": size, "bad": bad}
            about["written"] = images.stat().st_mtime_ns
            (building / "store.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return time.monotonic() - began
