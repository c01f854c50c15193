"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files beside their places and move them there when all of them are whole.

    Raises:
        OSError: they cannot be written; those that were there before still are.
    """
    building = {path: path.with_name(f".{path.name}.building") for path in files}
    try:
        for path, content in files.items():
            with building[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            building[path].replace(path)
    except BaseException:  # an interrupted command leaves none either
        for path in building.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place and move it there when it is whole."""
    write_together({path: text.encode()})


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Make a folder, or take an empty one, that is filled within; of what fails nothing is left.

    Raises:
        UserError: it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        with suppress(OSError):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for path in made:
                path.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        raise
