"""Image stores: every image of a table, decoded once into a memory-mapped uint8 file.

A store is a folder of two files, ``images.npy`` with the pixels and ``store.json`` with what is
known of them. Its name is a digest of all that its pixels depend on: the plugin, the size, the grey
range, and for each image its path and its identity, which changes when the file does. So a store
is never brought up to date. If the folder of that name exists and is whole, it is used; otherwise
every image is decoded into a new folder, which is moved into place when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xraygan.errors import UserError, shown
from xraygan.parts.interfaces import Dataset
from xraygan.parts.plugin_errors import BadAnswer, plugin_errors, plugin_fault
from xraygan.recipe.files import plain
from xraygan.recipe.loading import Recipe
from xraygan.utils.atomic_files import write_json
from xraygan.utils.paths import Folder

from .cache_folder import (
    METADATA,
    PIXELS,
    STORE_VERSION,
    building_folder,
    cache_folder,
    store_lock,
)
from .decode import GreyFault, LoadFault, Progress, decode, load_image
from .file_digests import PREFIX, digest_cache, file_identity, stamp
from .greys import DOUBTS, Grey
from .image_store import Store, read_store, unreadable_images, with_seal

#: unreadable images that are tried again when a store is opened
RETRIES = 200
#: paths that a store keeps of images with the same doubt
MAX_NAMED = 100


@dataclass(frozen=True)
class _StoreSpec:
    """The content that a store is to have."""

    dataset: Dataset
    paths: list[str]
    size: int
    grey: Grey


def open_store(recipe: Recipe, dataset: Dataset, paths: list[str], progress: Progress) -> Store:
    """Open the store of every image of a table; decode the images first if it does not exist.

    Raises:
        UserError: a path leaves the data's folder, the store cannot be written, the dataset is at
            fault, or files changed while they were decoded.
    """
    data, choice = recipe.tables.data, recipe.choices["data"]
    spec = _StoreSpec(dataset, paths, data.image_size, data.grey)
    _check_links(recipe, paths)
    contents = image_identities(recipe, dataset, paths)
    folder = cache_folder(data.cache) / _store_key(recipe, spec, contents)
    try:
        if (store := _open_usable(folder, spec)) is not None:
            return replace(store, contents=contents)
        if data.on_bad_image == "stop":
            missing = [path for path, content in zip(paths, contents, strict=True) if not content]
            if bad := _find_unreadable(spec, missing):
                raise unreadable_images(bad, len(paths))  # before the others are decoded in vain
        seconds = _write_store(folder, recipe, spec, contents, progress)
    except GreyFault:
        raise UserError(
            f"[data] grey: the dataset {choice.part.name!r} does not read its images with "
            'xraygan.data.images.read_grey, so data.grey can only be "full"'
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
    if (store := read_store(folder, len(paths), spec.size)) is None:
        raise UserError(
            f"{folder}: the image store was removed or changed while it was opened; run the same "
            "command again to decode the images again"
        )
    return replace(store, seconds=seconds, contents=contents)


def image_identities(recipe: Recipe, dataset: Dataset, paths: Sequence[str]) -> list[str]:
    """The identity of each image, a word that changes when the image does; "" if it is missing.

    Raises:
        PluginFault: the dataset's ``identity`` raised, or did not return text.
    """
    data = recipe.tables.data
    with (
        plugin_errors(recipe.choices["data"], "identity()"),
        digest_cache(cache_folder(data.cache)),
    ):
        if data.root is not None and type(dataset).identity is Dataset.identity:
            # The default identity is the path, which another folder may have too.
            return [file_identity(Path(data.root), path) or path for path in paths]
        identities = [dataset.identity(path) for path in paths]
        for path, identity in zip(paths, identities, strict=True):
            if not isinstance(identity, str):
                raise BadAnswer(f"of {path!r} is {shown(identity)}; expected text")
        return identities


def _store_key(recipe: Recipe, spec: _StoreSpec, contents: Sequence[str]) -> str:
    """The name of the one store that has these pixels."""
    part = recipe.choices["data"].part
    key: list[Any] = [STORE_VERSION, part.name, part.version, spec.size, spec.grey]
    # The identity of another distribution's plugin may not depend on its options or on its folder.
    if part.distribution != "xraygan":
        options = {name: plain(value) for name, value in recipe.choices["data"].options.items()}
        key += [part.distribution, options]
        if not all(content.startswith(PREFIX) for content in contents if content):
            key.append(_root(recipe))
    text = json.dumps([key, spec.paths, contents], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _root(recipe: Recipe) -> str | None:
    root = recipe.tables.data.root
    return None if root is None else str(Path(root).resolve())


def _open_usable(folder: Path, spec: _StoreSpec) -> Store | None:
    """The store in a folder; None if it has to be written.

    An image may have become readable without a change of its file: a decoder was installed, or its
    mode was set. So the first unreadable ones are tried again.
    """
    if (store := read_store(folder, len(spec.paths), spec.size)) is None:
        return None
    if not {*store.bad} <= {*spec.paths}:
        return None
    first = list(store.bad)[:RETRIES]
    still_bad = _find_unreadable(spec, first)
    return replace(store, bad=store.bad | still_bad) if len(still_bad) == len(first) else None


def _find_unreadable(spec: _StoreSpec, paths: Sequence[str]) -> dict[str, str]:
    """The images, of some paths, that cannot be read: path -> reason."""
    bad = {}
    for path in paths:
        try:
            load_image(spec.dataset, path, spec.size, spec.grey)
        except UserError as error:
            bad[path] = str(error)
    return bad


def _check_links(recipe: Recipe, paths: list[str]) -> None:
    """Refuse images that a symbolic link brings in from outside of the data's folder.

    Raises:
        UserError: it names the first of them.
    """
    root = recipe.tables.data.root
    if root is None:
        return
    folder = Folder(Path(root))
    # Nearly always no folder has a link in it, and paths need not be checked one by one.
    parents = {path.rpartition("/")[0] for path in paths}
    if not any(folder.leaves(f) or any(folder.entries(f).values()) for f in parents):
        return
    for path in paths:
        if folder.leaves(path):
            raise UserError(
                f"{root}: {path!r} leads out of this folder by a symbolic link, to "
                f"{folder.target(path)}; put the files themselves below data.root, or set "
                "data.root to the folder that holds them all"
            )


def _write_store(
    folder: Path, recipe: Recipe, spec: _StoreSpec, contents: Sequence[str], progress: Progress
) -> float | None:
    """Decode every image into a new store and move it into place when it is complete.

    Two processes may need the same store at the same time: the second waits for the lock, and then
    finds the store written. Until the move nothing has the store's name, so a process that is
    killed leaves no half-written store, only a ``.building`` folder that the next one removes.

    Returns:
        How many seconds decoding took; None if another process has written the store meanwhile.

    Raises:
        UserError: a file changed meanwhile, so that the store's name would not fit its pixels.
        OSError: the disk is full, or the folder cannot be written.
    """
    count = len(spec.paths)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = building_folder(folder)
    with store_lock(folder):
        if _open_usable(folder, spec) is not None:
            return None
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        if shutil.disk_usage(folder.parent).free < count * spec.size**2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        building.mkdir()
        start = time.monotonic()
        try:
            images = building / PIXELS
            decoded = decode(spec.dataset, spec.paths, spec.size, images, progress, spec.grey)
            seconds = time.monotonic() - start
            now = image_identities(recipe, spec.dataset, spec.paths)
            _check_unchanged(spec.paths, contents, now)
            if os.name == "posix":  # truncating a file that a run has mapped would kill that run
                images.chmod(0o444)
            metadata = {
                **_origin_metadata(recipe),
                "count": count,
                "size": spec.size,
                "sha256": decoded.sha256,
                "written": stamp(images.stat()),
                "doubtful": _count_by_kind(decoded.doubts),
                "bad": decoded.bad,
            }
            write_json(building / METADATA, with_seal(metadata))
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return seconds


def _origin_metadata(recipe: Recipe) -> dict[str, Any]:
    """The keys of ``store.json`` that say where a store is from, for `xraygan data list`."""
    return {
        "version": STORE_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "plugin": recipe.choices["data"].part.name,
        "root": _root(recipe),
        "grey": recipe.tables.data.grey,
    }


def _count_by_kind(doubts: Mapping[str, set[str]]) -> dict[str, Any]:
    """Kind of doubt -> the number of such images, and the paths of the first."""
    paths = {kind: [path for path, kinds in doubts.items() if kind in kinds] for kind in DOUBTS}
    return {
        kind: {"images": len(doubtful), "first": doubtful[:MAX_NAMED]}
        for kind, doubtful in paths.items()
        if doubtful
    }


def _check_unchanged(paths: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
    changed = [p for p, was, now in zip(paths, before, after, strict=True) if was != now]
    if changed:
        raise UserError(
            f"{len(changed)} of {len(paths)} images changed while they were decoded (the first is "
            f"{changed[0]!r}); run the same command again when the files no longer change"
        )
