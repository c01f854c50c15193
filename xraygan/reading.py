"""Files that may come from anywhere, TOML and JSON: whatever is wrong with one is a ValueError."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

#: bytes; a recipe has some thousand
LARGEST = 1 << 20

#: a key of more parts than any recipe has, of which the parser's memory would be the square
_ENDLESS_KEY = re.compile(r"""(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){32}""")


def unreadable(error: OSError) -> str:
    """What says that the operating system does not give a file or folder."""
    return f"{error.filename}: cannot be read ({error.strerror})"


def is_file(path: Path) -> bool:
    """Whether there is a file; none can have a name that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, largest: int) -> bytes:
    """A file's content.

    Raises:
        ValueError: it is no regular file, or larger than ``largest`` bytes.
        OSError: it cannot be read.
    """
    if not path.is_file() and path.exists():
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"larger than {largest:,} bytes")
    return content


def read_text(path: Path, largest: int = LARGEST) -> str:
    """A UTF-8 file's text.

    Raises:
        ValueError: as :func:`read_bytes`, or it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return read_bytes(path, largest).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error})") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: it is not TOML, or nested beyond reason.
    """
    if _ENDLESS_KEY.search(text):
        raise ValueError("not TOML for a recipe: a key of more than 32 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("not TOML for a recipe: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not TOML: {error}") from None


def parse_json(text: str) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, or nested beyond reason.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
