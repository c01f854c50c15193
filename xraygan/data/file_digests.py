"""What image files hold, as a cheap digest that is remembered until a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from xraygan.utils.atomic_files import write_atomically
from xraygan.utils.parsing import parse_json, read_text

from .cache_folder import LARGEST

#: starts what :func:`file_identity` returns; another number for another way to sample
PREFIX = "file1:"
WHOLE = 2**16  # bytes; a file of no more is read whole
ENDS = 4096  # bytes that are read at the head and at the tail of any other
BLOCKS, BLOCK = 4, 1024  # how many blocks are read in between, and of how many bytes
SETTLED = 2.0  # seconds; a file that changed later than that may change again within one tick
COARSE = 10_000_000  # ns; FAT keeps no time of change, and no other time finer than this


def file_identity(root: Path, path: str) -> str:
    """Tell whether a file is the same, for :meth:`xraygan.Dataset.identity`.

    It is of the file's size, its time of modification and a digest of its content: all bytes up to
    :data:`WHOLE`, else the head, the tail and some blocks in between. Where the folder lies does
    not count.

    Returns:
        One word, or "" where there is no such file: reading the image says what is wrong.
    """
    try:
        about = os.stat(f"{root}/{path}")  # noqa: PTH116  (half the time of a Path's, for 112,120)
    except (OSError, ValueError):
        return ""
    digest = ""
    if stat.S_ISREG(about.st_mode):  # a pipe would be waited for, and a folder has no bytes
        known = _remembered.get()
        try:
            digest = known.of(root, path, about) if known else _digest(root, path, about)
        except OSError:
            digest = ""  # reading the image says why, too
    return f"{PREFIX}{about.st_size}:{about.st_mtime_ns}:{digest}"


def content_of(identity: str) -> str:
    """What an identity says of an image's content alone: of a file its size and digest, since a
    copy has another time."""
    if not identity.startswith(PREFIX):
        return identity
    size, _, digest = identity.removeprefix(PREFIX).split(":", 2)
    return f"{size}:{digest}"


def stamp(about: os.stat_result) -> str:
    """What the operating system changes whenever a file is written, replaced or given other times.

    The time of change (ctime) is among it, which no program can set back.
    """
    return f"{about.st_size}:{about.st_mtime_ns}:{about.st_ctime_ns}:{about.st_ino}:{about.st_dev}"


def _digest(root: Path, path: str, about: os.stat_result) -> str:
    found, size = hashlib.blake2b(digest_size=16), about.st_size
    with open(f"{root}/{path}", "rb", buffering=0) as content:  # noqa: PTH123
        if size <= WHOLE:
            found.update(content.read(WHOLE + 1))
        else:
            found.update(content.read(ENDS))
            for i in range(1, BLOCKS + 1):
                content.seek(size * i // (BLOCKS + 1))
                found.update(content.read(BLOCK))
            content.seek(size - ENDS)
            found.update(content.read(ENDS + 1))
    return found.hexdigest()


class _Remembered:
    """Digests of files that were read before, kept in a folder, one table for each root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[Path, dict[str, str]] = {}
        self._new: set[Path] = set()
        self._before = time.time_ns() - int(SETTLED * 1e9)

    def of(self, root: Path, path: str, about: os.stat_result) -> str:
        """The digest of a file, read only if its stamp is another than the remembered one."""
        if (table := self._tables.get(root)) is None:
            table = self._tables[root] = self._read(root)
        now = stamp(about)
        if (known := table.get(path, "")).startswith(f"{now} "):
            return known[len(now) + 1 :]
        digest = _digest(root, path, about)
        if self._is_telling(about):
            table[path] = f"{now} {digest}"
            self._new.add(root)
        return digest

    def _is_telling(self, about: os.stat_result) -> bool:
        """Whether a file cannot change without another stamp."""
        # Windows keeps the time of creation as ctime; some network drives keep no inode.
        if sys.platform == "win32" or not about.st_ino or about.st_ctime_ns % COARSE == 0:
            return False
        return max(about.st_ctime_ns, about.st_mtime_ns) < self._before

    def _file(self, root: Path) -> Path:
        key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        return self.folder / f"{key}.digests.json"

    def _read(self, root: Path) -> dict[str, str]:
        try:
            about = parse_json(read_text(self._file(root), LARGEST))
            # The name is a digest of the folder; that it stands inside too guards against a copy.
            if about["root"] == os.path.realpath(root) and about["kind"] == PREFIX:
                return {str(path): str(found) for path, found in about["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # absent or damaged: the files themselves are read
        return {}

    def write(self) -> None:
        """Keep what was learned, where the folder can be written."""
        for root in self._new:
            about = {"root": os.path.realpath(root), "kind": PREFIX, "files": self._tables[root]}
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self._file(root), json.dumps(about))


_remembered: ContextVar[_Remembered | None] = ContextVar("remembered", default=None)


@contextmanager
def remembering(folder: Path) -> Iterator[None]:
    """Within it :func:`file_identity` reads a file only if it is new or has changed.

    Args:
        folder: where digests are kept from run to run.
    """
    known = _Remembered(folder)
    token = _remembered.set(known)
    try:
        yield
    finally:
        _remembered.reset(token)
        known.write()
