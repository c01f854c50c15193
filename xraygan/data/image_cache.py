"""Image stores: every image of a table, decoded once into a memory-mapped uint8 file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xraygan.errors import UserError, shown
from xraygan.parts.interfaces import Dataset
from xraygan.parts.plugin_errors import BadAnswer, asking, plugin_fault
from xraygan.recipe.files import plain
from xraygan.recipe.loading import Recipe
from xraygan.utils.atomic_files import write_json
from xraygan.utils.paths import Folder

from .cache_folder import (
    ABOUT,
    PIXELS,
    STORE_VERSION,
    building_folder,
    cache_folder,
    read_about,
    store_lock,
)
from .decode import GreyFault, LoadFault, Progress, decode, digest_of, header_of, load
from .file_digests import PREFIX, file_identity, remembering, stamp
from .greys import DOUBTS, Grey

#: unreadable images that are tried again when a store is opened
RETRIES = 200
#: paths that are kept of images that may be ruined in one way
NAMED = 100


@dataclass(frozen=True)
class Doubtful:
    """Images of a store that can be read and may be ruined, all in one way.

    Attributes:
        kind: a key of :data:`xraygan.data.greys.DOUBTS`.
        count: how many they are.
        paths: the first of them.
    """

    kind: str
    count: int
    paths: list[str]

    def said(self, images: int, names: int) -> str:
        """A sentence of them, with their number of all ``images`` and the first ``names``."""
        shown = ", ".join(self.paths[:names]) + (", ..." if self.count > names else "")
        return f"{self.count:,} of {images:,} images {DOUBTS.get(self.kind, self.kind)}: {shown}"


@dataclass(frozen=True)
class Store:
    """All images of a recipe's table, decoded.

    Attributes:
        folder: where they are kept.
        pixels: ``(M, S, S)`` uint8, mapped into memory: read from the disk when they are used.
        sha256: a digest of the pixels.
        bad: unreadable images, which are black here: path -> reason.
        doubtful: images that can be read and may be ruined, by the way.
        seconds: how long decoding them took; None where that had been done before.
        contents: what tells whether each image is the same (:meth:`xraygan.Dataset.identity`).
    """

    folder: Path
    pixels: Tensor
    sha256: str
    bad: dict[str, str]
    doubtful: list[Doubtful]
    seconds: float | None
    contents: Sequence[str] = ()

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
        for found in self.doubtful:
            lines += f"\n{found.said(count, 20)}"
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


@dataclass(frozen=True)
class _Asked:
    """What a store is to hold."""

    dataset: Dataset
    paths: list[str]
    size: int
    grey: Grey


def open_store(recipe: Recipe, dataset: Dataset, paths: list[str], progress: Progress) -> Store:
    """The store of every image of a table, written now unless it is there.

    Raises:
        UserError: a path leaves the data's folder, the store cannot be written, the dataset is at
            fault, or files changed while they were decoded.
    """
    data, choice = recipe.tables.data, recipe.choices["data"]
    asked = _Asked(dataset, paths, data.image_size, data.grey)
    _check_links(recipe, paths)
    contents = contents_of(recipe, dataset, paths)
    folder = cache_folder(data.cache) / _key(recipe, asked, contents)
    try:
        if (store := _usable(folder, asked)) is not None:
            return replace(store, contents=contents)
        if data.on_bad_image == "stop":
            gone = [path for path, content in zip(paths, contents, strict=True) if not content]
            if bad := _tried(asked, gone):
                raise unreadable(bad, len(paths))  # before the others are decoded in vain
        seconds = _write_store(folder, recipe, asked, contents, progress)
    except GreyFault:
        raise UserError(
            f"[data] grey: the dataset {choice.part.name!r} does not read its images with "
            'xraygan.data.images.read_grey, so it has no other range than "full"'
        ) from None
    except LoadFault as fault:
        if choice.part.is_own:
            raise
        raise plugin_fault(choice, str(fault)) from fault
    except OSError as error:
        raise UserError(
            f"{folder}: the image store cannot be written ({error.strerror}); name another "
            "folder with --set data.cache=DIR"
        ) from error
    if (store := _read_store(folder, len(paths), asked.size)) is None:
        raise UserError(
            f"{folder}: the image store was taken away or changed while it was opened; the same "
            "command decodes it anew"
        )
    return replace(store, seconds=seconds, contents=contents)


def contents_of(recipe: Recipe, dataset: Dataset, paths: Sequence[str]) -> list[str]:
    """What tells whether each image is the same."""
    data = recipe.tables.data
    with asking(recipe.choices["data"], "identity()"), remembering(cache_folder(data.cache)):
        if data.root is not None and type(dataset).identity is Dataset.identity:
            # It says no more than the path, and another folder has the same.
            return [file_identity(Path(data.root), path) or path for path in paths]
        found = [dataset.identity(path) for path in paths]
        for path, content in zip(paths, found, strict=True):
            if not isinstance(content, str):
                raise BadAnswer(f"of {path!r} is {shown(content)}; expected text")
        return found


def _key(recipe: Recipe, asked: _Asked, contents: Sequence[str]) -> str:
    """The name of the one store whose pixels these are."""
    part = recipe.choices["data"].part
    key: list[Any] = [STORE_VERSION, part.name, part.version, asked.size, asked.grey]
    # What others call the same image need not be so with other options or in another folder.
    if part.distribution != "xraygan":
        options = {name: plain(value) for name, value in recipe.choices["data"].options.items()}
        key += [part.distribution, options]
        if not all(content.startswith(PREFIX) for content in contents if content):
            key.append(_root(recipe))
    text = json.dumps([key, asked.paths, contents], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _root(recipe: Recipe) -> str | None:
    root = recipe.tables.data.root
    return None if root is None else str(Path(root).resolve())


def _read_store(folder: Path, count: int, size: int) -> Store | None:
    """The store that a folder holds; None unless it is whole and what was written."""
    images, about = folder / PIXELS, read_about(folder)
    if about != sealed(about) or not _is_ours(about) or not images.is_file():
        return None
    try:
        mapped = _mapped(images, count, size)
        # Of a file that was touched or copied since, only its pixels can tell.
        if (now := stamp(images.stat())) != about.get("written"):
            if digest_of(mapped) != about["sha256"]:
                return None
            with suppress(OSError):
                write_json(folder / ABOUT, sealed(about | {"written": now}))
        with suppress(OSError):
            os.utime(folder / ABOUT)  # it was used now
    except (OSError, ValueError):
        return None
    doubtful = [
        Doubtful(kind, found["images"], found["first"]) for kind, found in about["doubtful"].items()
    ]
    return Store(folder, torch.from_numpy(mapped), about["sha256"], about["bad"], doubtful, None)


def _mapped(images: Path, count: int, size: int) -> np.ndarray:
    """The pixels of a file that is exactly what was written, mapped into memory.

    Raises:
        ValueError: it is another.
        OSError: it cannot be read.
    """
    header = header_of(count, size)
    if not images.is_file() or images.stat().st_size != len(header) + count * size**2:
        raise ValueError("another length")
    with images.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError("another header")
    if not count:
        return np.zeros((0, size, size), dtype=np.uint8)
    # Copy on write: torch wants writable memory, and nothing of ours writes to it.
    return np.memmap(images, np.uint8, "c", len(header), (count, size, size))


def sealed(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a store says of itself, with a digest of all of it."""
    said = {name: value for name, value in about.items() if name != "seal"}
    text = json.dumps(said, sort_keys=True)
    return {**said, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _is_ours(about: Mapping[str, Any]) -> bool:
    """Whether it is of this version, and of the types that it is used as."""
    bad, doubtful = about.get("bad"), about.get("doubtful")
    return (
        about.get("version") == STORE_VERSION
        and isinstance(about.get("sha256"), str)
        and isinstance(bad, dict)
        and all(isinstance(reason, str) for reason in bad.values())
        and isinstance(doubtful, dict)
        and all(kind in DOUBTS and _is_count(found) for kind, found in doubtful.items())
    )


def _is_count(found: Any) -> bool:
    """Whether it is how many images are doubtful, and the paths of the first."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("images"), int)
        and isinstance(found.get("first"), list)
        and all(isinstance(path, str) for path in found["first"])
    )


def _usable(folder: Path, asked: _Asked) -> Store | None:
    """The store that a folder holds; None where it is to be written anew.

    An image may have become readable without a change of its file: a decoder was installed, its
    mode was set. So the first of those that were not are tried again.
    """
    if (store := _read_store(folder, len(asked.paths), asked.size)) is None:
        return None
    if not {*store.bad} <= {*asked.paths}:
        return None
    first = list(store.bad)[:RETRIES]
    now = _tried(asked, first)
    return replace(store, bad=store.bad | now) if len(now) == len(first) else None


def _tried(asked: _Asked, paths: Sequence[str]) -> dict[str, str]:
    """Those of some images that cannot be read: path -> reason."""
    bad = {}
    for path in paths:
        try:
            load(asked.dataset, path, asked.size, asked.grey)
        except UserError as error:
            bad[path] = str(error)
    return bad


def _check_links(recipe: Recipe, paths: list[str]) -> None:
    """Refuse to decode what a symbolic link brings in from outside of the data's folder."""
    root = recipe.tables.data.root
    if root is None:
        return
    folder = Folder(Path(root))
    # Nearly always no folder has a link in it, and paths need not be looked at one by one.
    around = {path.rpartition("/")[0] for path in paths}
    if not any(folder.leaves(f) or any(folder.entries(f).values()) for f in around):
        return
    for path in paths:
        if folder.leaves(path):
            raise UserError(
                f"{root}: {path!r} leads out of this folder by a symbolic link, to "
                f"{folder.target(path)}; put the files themselves below data.root, or "
                "let data.root name the folder that holds them all"
            )


def _write_store(
    folder: Path, recipe: Recipe, asked: _Asked, contents: Sequence[str], progress: Progress
) -> float | None:
    """Decode every image into a new store and move it into place when it is whole.

    Returns:
        How many seconds it took; None if another process was just doing it.

    Raises:
        UserError: a file changed meanwhile, so that the store would not be of what its name says.
        OSError: there is no room for it, or the folder cannot be written.
    """
    count = len(asked.paths)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = building_folder(folder)
    with store_lock(folder):
        if _usable(folder, asked) is not None:
            return None
        shutil.rmtree(building, ignore_errors=True)  # what a killed process left
        if shutil.disk_usage(folder.parent).free < count * asked.size**2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        building.mkdir()
        began = time.monotonic()
        try:
            images = building / PIXELS
            found = decode(asked.dataset, asked.paths, asked.size, images, progress, asked.grey)
            seconds = time.monotonic() - began
            now = contents_of(recipe, asked.dataset, asked.paths)
            _check_unchanged(asked.paths, contents, now)
            if os.name == "posix":  # who cuts what a run has mapped into memory kills that run
                images.chmod(0o444)
            about = {
                **_origin(recipe),
                "count": count,
                "size": asked.size,
                "sha256": found.sha256,
                "written": stamp(images.stat()),
                "doubtful": _by_kind(found.doubts),
                "bad": found.bad,
            }
            write_json(building / ABOUT, sealed(about))
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return seconds


def _origin(recipe: Recipe) -> dict[str, Any]:
    """What a store says of where it is from, for who lists stores."""
    return {
        "version": STORE_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "plugin": recipe.choices["data"].part.name,
        "root": _root(recipe),
        "grey": recipe.tables.data.grey,
    }


def _by_kind(doubts: Mapping[str, set[str]]) -> dict[str, Any]:
    """How many images are doubtful in each way, and the first of them."""
    paths = {kind: [path for path, kinds in doubts.items() if kind in kinds] for kind in DOUBTS}
    return {
        kind: {"images": len(those), "first": those[:NAMED]}
        for kind, those in paths.items()
        if those
    }


def _check_unchanged(paths: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
    changed = [p for p, was, now in zip(paths, before, after, strict=True) if was != now]
    if changed:
        raise UserError(
            f"{len(changed)} of {len(paths)} images changed while they were decoded, "
            f"{changed[0]!r} the first; run the same command again when they change no more"
        )
