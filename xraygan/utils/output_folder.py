"""Folders that a command fills with files: whole, or known to be unfinished and made anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from xraygan.errors import UserError

from .atomic_files import building_name, write_atomically
from .parsing import read_text

#: in a folder that is being filled: the names of the files that belong there
UNFINISHED = ".unfinished"
LARGEST = 1 << 26  # bytes of it


def require_empty_folder(folder: Path) -> None:
    """Hold that a folder that is to be filled is not there, is empty, or holds what a process that
    was killed in :func:`write_folder` left.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    try:
        if folder.exists() and {path.name for path in folder.iterdir()} - _left(folder):
            raise UserError(f"{folder} is not empty; name a new folder with --out")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read ({error})") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder, after what a process that was killed here left is removed.

    Until all of them are there the folder holds ``.unfinished``, the list of their names.

    Returns:
        The files.

    Raises:
        UserError: see :func:`require_empty_folder`; or it cannot be written; what was is removed.
    """
    require_empty_folder(folder)
    note = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder)
        write_atomically(note, "".join(f"{name}\n" for name in files))
        for name, content in files.items():
            with (folder / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        note.unlink()
    except BaseException as error:  # an interrupted command leaves nothing either
        with suppress(OSError):
            _remove(folder)
            folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        raise
    return [folder / name for name in files]


def _left(folder: Path) -> set[str]:
    """What a process that was killed in :func:`write_folder` may have left in a folder."""
    note = folder / UNFINISHED
    names = read_text(note, LARGEST).splitlines() if note.is_file() else []
    # A note that came from elsewhere names no file of another folder.
    return {UNFINISHED, building_name(note), *(name for name in names if Path(name).name == name)}


def _remove(folder: Path) -> None:
    """Remove that, the note last."""
    for name in sorted(_left(folder) - {UNFINISHED}):
        (folder / name).unlink(missing_ok=True)
    (folder / UNFINISHED).unlink(missing_ok=True)
