"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def building_name(path: Path) -> str:
    """The name of a file until it is whole."""
    return f".{path.name}.building"


def write_together(files: Mapping[Path, bytes], remove: Iterable[Path] = ()) -> None:
    """Write files beside their places and move them there when all of them are whole.

    Args:
        remove: files that are removed before the first is moved. Where the last one is among them,
            it is there only if all others are of the same writing, whenever the process is killed.

    Raises:
        OSError: they cannot be written; those that were there before still are.
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
    except BaseException:  # an interrupted command leaves none either
        for path in building.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place and move it there when it is whole."""
    write_together({path: text.encode()})


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, as_json(content))


def as_json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
