"""Files that exist whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: errors of file systems that cannot fsync a folder
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF)


def building_name(path: Path) -> str:
    """The name of a file while it is being written."""
    return f".{path.name}.building"


def write_together(files: Mapping[Path, bytes], remove: Iterable[Path] = ()) -> None:
    """Write files under hidden names beside their paths, and rename them when all are whole.

    Args:
        remove: files that are removed before the first rename. If the last of ``files`` is among
            them, it exists only if all the others come from the same call, even if the process is
            killed.

    Raises:
        OSError: a file cannot be written; the files that were there before are unchanged.
    """
    building = {path: path.with_name(building_name(path)) for path in files}
    try:
        for path, content in files.items():
            with building[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in remove:
            path.unlink(missing_ok=True)
        for path in files:
            building[path].replace(path)
    except BaseException:  # an interrupted command leaves no hidden files either
        for path in building.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a hidden name, and rename it when it is whole."""
    write_together({path: text.encode()})


def sync(path: Path) -> None:
    """Make the content of a file or folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """:func:`sync` a folder, where the file system can."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, as_json(content))


def as_json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
