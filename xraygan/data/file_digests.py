"""Identities of image files: a cheap digest of the content, remembered until a file changes."""

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
    """A word that changes when a file changes, for :meth:`xraygan.Dataset.identity`.

    It consists of the file's size, its time of modification and a digest of its content: of all
    bytes up to :data:`WHOLE`, else of the head, the tail and some blocks in between. It does not
    depend on the folder's path.

    Returns:
        One word; "" if the file cannot be read, which is reported when the image is.
    """
    try:
        stat_result = os.stat(f"{root}/{path}")  # noqa: PTH116  (half the time of a Path's, for 112,120)
    except (OSError, ValueError):
        return ""
    digest = ""
    if stat.S_ISREG(stat_result.st_mode):  # reading a pipe would wait; a folder has no bytes
        cache = _cache.get()
        try:
            if cache:
                digest = cache.digest(root, path, stat_result)
            else:
                digest = _digest(root, path, stat_result)
        except OSError:
            digest = ""  # reported when the image is read, too
    return f"{PREFIX}{stat_result.st_size}:{stat_result.st_mtime_ns}:{digest}"


def content_identity(identity: str) -> str:
    """The part of an identity that depends on the image's content alone: for a file, its size and
    digest, because a copy has another time of modification."""
    if not identity.startswith(PREFIX):
        return identity
    size, _, digest = identity.removeprefix(PREFIX).split(":", 2)
    return f"{size}:{digest}"


def stamp(info: os.stat_result) -> str:
    """The values that change whenever a file is written, replaced or given other times.

    The time of change (ctime) is one of them, which no program can set back.
    """
    return f"{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}:{info.st_ino}:{info.st_dev}"


def _digest(root: Path, path: str, info: os.stat_result) -> str:
    digest, size = hashlib.blake2b(digest_size=16), info.st_size
    with open(f"{root}/{path}", "rb", buffering=0) as content:  # noqa: PTH123
        if size <= WHOLE:
            digest.update(content.read(WHOLE + 1))
        else:
            digest.update(content.read(ENDS))
            for i in range(1, BLOCKS + 1):
                content.seek(size * i // (BLOCKS + 1))
                digest.update(content.read(BLOCK))
            content.seek(size - ENDS)
            digest.update(content.read(ENDS + 1))
    return digest.hexdigest()


class _DigestCache:
    """Digests of files that were read before, kept in a folder, one table for each root.

    A digest is remembered with the file's :func:`stamp`, and valid as long as that is the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[Path, dict[str, str]] = {}
        self._changed: set[Path] = set()
        self._settled_before = time.time_ns() - int(SETTLED * 1e9)

    def digest(self, root: Path, path: str, info: os.stat_result) -> str:
        """The digest of a file, which is read only if its stamp has changed."""
        if (table := self._tables.get(root)) is None:
            table = self._tables[root] = self._read(root)
        now = stamp(info)
        if (known := table.get(path, "")).startswith(f"{now} "):
            return known[len(now) + 1 :]
        digest = _digest(root, path, info)
        if self._is_reliable(info):
            table[path] = f"{now} {digest}"
            self._changed.add(root)
        return digest

    def _is_reliable(self, info: os.stat_result) -> bool:
        """Whether a file cannot change from now on without a change of its stamp."""
        # Windows keeps the time of creation as ctime; some network drives keep no inode.
        if sys.platform == "win32" or not info.st_ino or info.st_ctime_ns % COARSE == 0:
            return False
        return max(info.st_ctime_ns, info.st_mtime_ns) < self._settled_before

    def _file(self, root: Path) -> Path:
        key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        return self.folder / f"{key}.digests.json"

    def _read(self, root: Path) -> dict[str, str]:
        try:
            content = parse_json(read_text(self._file(root), LARGEST))
            # The file's name is a digest of the root; the root inside guards against a copy.
            if content["root"] == os.path.realpath(root) and content["kind"] == PREFIX:
                return {str(path): str(known) for path, known in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # absent or damaged: the files themselves are read
        return {}

    def write(self) -> None:
        """Write the changed tables, if the folder can be written."""
        for root in self._changed:
            content = {"root": os.path.realpath(root), "kind": PREFIX, "files": self._tables[root]}
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self._file(root), json.dumps(content))


_cache: ContextVar[_DigestCache | None] = ContextVar("digest_cache", default=None)


@contextmanager
def digest_cache(folder: Path) -> Iterator[None]:
    """Within it :func:`file_identity` reads a file only if it is new or has changed.

    Args:
        folder: where digests are kept from run to run.
    """
    cache = _DigestCache(folder)
    token = _cache.set(cache)
    try:
        yield
    finally:
        _cache.reset(token)
        cache.write()
