"""The folder of image stores: which are there, and how they are removed."""

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

#: raised whenever the same file would be decoded to other bytes, or a store holds other files
STORE_VERSION = 7
#: bytes of a store.json, which names every image that cannot be read
LARGEST = 1 << 28
PIXELS, ABOUT = "images.npy", "store.json"

# Nothing of another name, nor with anything else in it, is ever removed.
_KEY = re.compile(r"[0-9a-f]{32}")
_BUILDING = re.compile(r"\.([0-9a-f]{32})\.building")
_LOCK = re.compile(r"\.([0-9a-f]{32})\.lock")
_DIGESTS = re.compile(r"\.?[0-9a-f]{32}\.digests\.json(\.building)?")


def cache_folder(chosen: str | Path | None) -> Path:
    """Where image stores are kept: ``[data] cache``, or the user's cache folder."""
    if chosen is not None:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xraygan"


def building_folder(folder: Path) -> Path:
    """Where a store is written before it is moved into place."""
    return folder.with_name(f".{folder.name}.building")


def store_lock(folder: Path) -> FileLock:
    """What a process holds while it writes or removes a store."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


@dataclass(frozen=True)
class Entry:
    """A store in a cache folder, or what is left of one.

    Attributes:
        key: its name.
        about: what its ``store.json`` says; empty if that cannot be read.
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
    about: dict[str, Any] = field(default_factory=dict)


def entries(cache: Path) -> list[Entry]:
    """The stores of a cache folder, the one that was used last first.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        found = [_entry(path) for path in cache.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{cache}: cannot be read ({error.strerror})") from error
    return sorted((e for e in found if e), key=lambda entry: entry.used, reverse=True)


def _entry(folder: Path) -> Entry | None:
    match = _KEY.fullmatch(folder.name) or _BUILDING.fullmatch(folder.name)
    if not match or folder.is_symlink() or not folder.is_dir():
        return None
    try:
        files = {path.name: path.lstat() for path in folder.iterdir()}
    except OSError:
        return None
    if not {*files} <= {PIXELS, ABOUT}:
        return None  # not ours
    times = [about.st_mtime for about in (*files.values(), folder.lstat())]
    used = _time(files[ABOUT].st_mtime if ABOUT in files else max(times))
    size = sum(about.st_size for about in files.values())
    if folder.name.startswith("."):
        key = match[1]
        state = "being written" if _is_held(folder.with_name(key)) else "left over"
        return Entry(key, folder, state, size, used)
    about = read_about(folder)
    state = "whole" if about.get("version") == STORE_VERSION else "outdated"
    if not about or PIXELS not in files:
        state = "damaged"
    return Entry(folder.name, folder, state, size, used, about)


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # of a year that is none
        return datetime.fromtimestamp(0, UTC)


def read_about(folder: Path) -> dict[str, Any]:
    """What a store says of itself; empty if it cannot be read."""
    try:
        about = parse_json(read_text(folder / ABOUT, LARGEST))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_held(folder: Path) -> bool:
    try:
        with store_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # of another user, say
        return True


def chosen_entries(cache: Path, keys: Sequence[str], *, outdated: bool = False) -> list[Entry]:
    """Those of a cache folder that keys, or their beginnings, name.

    Args:
        outdated: take what no run can use as well: all that is neither whole nor being written.

    Raises:
        UserError: a key names none of them, or several.
    """
    there = entries(cache)
    chosen = {e.folder: e for e in there if outdated and e.state not in ("whole", "being written")}
    for key in keys:
        fitting = [entry for entry in there if key and entry.key.startswith(key)]
        if not fitting:
            raise UserError(f"{cache}: no image store is called {key!r}; see xraygan data list")
        if len({entry.key for entry in fitting}) > 1:
            raise UserError(f"{cache}: several image stores begin with {key!r}; write more of it")
        chosen |= {entry.folder: entry for entry in fitting}
    return list(chosen.values())


def remove(chosen: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
    """Remove stores, each unless another process is writing it.

    Runs that have opened one keep it until they end, where the operating system allows that.

    Yields:
        Each store, and why it could not be removed; empty if it was.
    """
    for entry in chosen:
        with _held(entry.folder.with_name(entry.key)) as fault:
            if not fault:
                try:
                    # First what makes it count: a store that is half removed must not.
                    for name in (ABOUT, PIXELS):
                        (entry.folder / name).unlink(missing_ok=True)
                    entry.folder.rmdir()
                except OSError as error:
                    fault = f"cannot be removed ({error.strerror})"
        yield entry, fault


@contextmanager
def _held(folder: Path) -> Iterator[str]:
    """Within it no other process writes a store; yields why one may, if one may."""
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
        if not folder.exists():  # else the next that writes it would make the file again
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
            with _held(cache / match[1]):
                pass
