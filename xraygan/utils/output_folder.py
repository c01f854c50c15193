"""Fill a folder with files. A folder that is incomplete is marked, and can be filled again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from xraygan.errors import UserError

from .atomic_files import building_name, write_atomically
from .parsing import read_text

#: file in a folder that is being filled: the names of the files that will be in it
UNFINISHED = ".unfinished"
LARGEST = 1 << 26  # most bytes of that file


def require_empty_folder(folder: Path) -> None:
    """Check that a folder does not exist, is empty, or holds only the leftovers of an interrupted
    :func:`write_folder`.

    Raises:
        UserError: it holds other files, or cannot be read.
    """
    try:
        if folder.exists() and {path.name for path in folder.iterdir()} - _leftovers(folder):
            raise UserError(f"{folder} is not empty; name a new folder with --out")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read ({error})") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder, after removing the leftovers of an interrupted call.

    Until all files are written, the folder holds ``.unfinished``, the list of their names.

    Returns:
        The paths of the files.

    Raises:
        UserError: see :func:`require_empty_folder`; or a file cannot be written, and all are
            removed.
    """
    require_empty_folder(folder)
    note = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        write_atomically(note, "".join(f"{name}\n" for name in files))
        for name, content in files.items():
            with (folder / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        note.unlink()
    except BaseException as error:  # an interrupted command leaves no files either
        with suppress(OSError):
            _remove_leftovers(folder)
            folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        raise
    return [folder / name for name in files]


def _leftovers(folder: Path) -> set[str]:
    """Names of files that an interrupted :func:`write_folder` may have left in a folder."""
    note = folder / UNFINISHED
    names = read_text(note, LARGEST).splitlines() if note.is_file() else []
    # Names that lead to another folder are ignored: the list may come from anywhere.
    return {UNFINISHED, building_name(note), *(name for name in names if Path(name).name == name)}


def _remove_leftovers(folder: Path) -> None:
    """Remove the leftovers, the list of their names last."""
    for name in sorted(_leftovers(folder) - {UNFINISHED}):
        (folder / name).unlink(missing_ok=True)
    (folder / UNFINISHED).unlink(missing_ok=True)
