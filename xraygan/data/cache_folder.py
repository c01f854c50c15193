"""The folder of image stores: list them and remove them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xraygan.errors import UserError
from xraygan.utils.parsing import parse_json, read_text

#: increased whenever the same file would be decoded to other bytes, or a store has other files
STORE_VERSION = 7
#: bytes of a store.json, which names every image that cannot be read
LARGEST = 1 << 28
PIXELS, METADATA = "images.npy", "store.json"

# A folder with another name, or with any other file in it, is never removed.
_KEY = re.compile(r"[0-9a-f]{32}")
_BUILDING = re.compile(r"\.([0-9a-f]{32})\.building")
_LOCK = re.compile(r"\.([0-9a-f]{32})\.lock")
_DIGESTS = re.compile(r"\.?[0-9a-f]{32}\.digests\.json(\.building)?")


def cache_folder(configured: str | Path | None) -> Path:
    """The folder of image stores: ``[data] cache``, or by default the user's cache folder."""
    if configured is not None:
        return Path(configured).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xraygan"


def building_folder(folder: Path) -> Path:
    """The folder in which a store is written before it is moved into place."""
    return folder.with_name(f".{folder.name}.building")


def store_lock(folder: Path) -> FileLock:
    """The lock that a process holds while it writes or removes a store."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


@dataclass(frozen=True)
class StoreEntry:
    """A store in a cache folder, or the remains of one.

    Attributes:
        key: its name.
        metadata: the content of its ``store.json``; empty if that cannot be read.
        state: ``"whole"``, ``"outdated"`` (of another version of the toolkit), ``"damaged"``,
            ``"being written"`` or ``"left over"`` (of a process that was killed).
        size: bytes on the disk.
        used: when it was last opened.
    """

    key: str
    folder: Path
    state: str
    size: int
    used: datetime
    metadata: dict[str, Any] = field(default_factory=dict)


def list_stores(cache: Path) -> list[StoreEntry]:
    """The stores of a cache folder, the most recently used first.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        entries = [_read_entry(path) for path in cache.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{cache}: cannot be read ({error.strerror})") from error
    return sorted((e for e in entries if e), key=lambda entry: entry.used, reverse=True)


def _read_entry(folder: Path) -> StoreEntry | None:
    """The store in a folder; None if the folder is no store."""
    match = _KEY.fullmatch(folder.name) or _BUILDING.fullmatch(folder.name)
    if not match or folder.is_symlink() or not folder.is_dir():
        return None
    try:
        files = {path.name: path.lstat() for path in folder.iterdir()}
    except OSError:
        return None
    if not {*files} <= {PIXELS, METADATA}:
        return None
    times = [stat.st_mtime for stat in (*files.values(), folder.lstat())]
    used = _datetime(files[METADATA].st_mtime if METADATA in files else max(times))
    size = sum(stat.st_size for stat in files.values())
    if folder.name.startswith("."):
        key = match[1]
        state = "being written" if _is_held(folder.with_name(key)) else "left over"
        return StoreEntry(key, folder, state, size, used)
    metadata = read_store_metadata(folder)
    state = "whole" if metadata.get("version") == STORE_VERSION else "outdated"
    if not metadata or PIXELS not in files:
        state = "damaged"
    return StoreEntry(folder.name, folder, state, size, used, metadata)


def _datetime(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a year that datetime does not know
        return datetime.fromtimestamp(0, UTC)


def read_store_metadata(folder: Path) -> dict[str, Any]:
    """The content of a store's ``store.json``; empty if it cannot be read."""
    try:
        metadata = parse_json(read_text(folder / METADATA, LARGEST))
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _is_held(folder: Path) -> bool:
    try:
        with store_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # the lock of another user, for example
        return True


def select_stores(cache: Path, keys: Sequence[str], *, outdated: bool = False) -> list[StoreEntry]:
    """The stores of a cache folder whose keys begin with one of ``keys``.

    Args:
        outdated: also select every store that no run can use: it is neither whole nor being
            written.

    Raises:
        UserError: a key names no store, or several.
    """
    stores = list_stores(cache)
    unusable = [e for e in stores if e.state not in ("whole", "being written")]
    selected = {entry.folder: entry for entry in unusable if outdated}
    for key in keys:
        matches = [entry for entry in stores if key and entry.key.startswith(key)]
        if not matches:
            raise UserError(f"{cache}: no image store is called {key!r}; see xraygan data list")
        if len({entry.key for entry in matches}) > 1:
            raise UserError(f"{cache}: several image stores begin with {key!r}; give a longer key")
        selected |= {entry.folder: entry for entry in matches}
    return list(selected.values())


def remove_stores(stores: Sequence[StoreEntry]) -> Iterator[tuple[StoreEntry, str]]:
    """Remove stores, except those that another process is writing.

    A run that has opened a store can use it until the run ends, where the operating system allows
    that.

    Yields:
        Each store, and why it could not be removed; empty if it was.
    """
    for entry in stores:
        with _locked(entry.folder.with_name(entry.key)) as fault:
            if not fault:
                try:
                    # Without store.json a folder is no store: a half removed one must not count.
                    for name in (METADATA, PIXELS):
                        (entry.folder / name).unlink(missing_ok=True)
                    entry.folder.rmdir()
                except OSError as error:
                    fault = f"cannot be removed ({error.strerror})"
        yield entry, fault


@contextmanager
def _locked(folder: Path) -> Iterator[str]:
    """Within it no other process writes a store; yields why that is not so, or ""."""
    lock = store_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield "is being written by another process"
        return
    except OSError as error:
        yield f"cannot be locked ({error.strerror})"
        return
    try:
        yield ""
    finally:
        if not folder.exists():  # a lock of no store; a later writer makes it again
            with suppress(OSError):
                Path(lock.lock_file).unlink()
        lock.release()


def remove_digests(cache: Path) -> None:
    """Remove the remembered digests of files, and the locks of stores that are gone."""
    for path in list(cache.iterdir()) if cache.is_dir() else []:
        if not path.is_file() or path.is_symlink():
            continue
        if _DIGESTS.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
        elif (match := _LOCK.fullmatch(path.name)) and not (cache / match[1]).exists():
            with _locked(cache / match[1]):
                pass
