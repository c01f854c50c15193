"""Files that may come from anywhere, TOML and JSON: whatever is wrong with one is a ValueError."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

#: bytes; a recipe has some thousand
LARGEST = 1 << 20

#: a key of more parts than any recipe has, of which the parser's memory would be the square
_ENDLESS_KEY = re.compile(r"""(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){32}""")


def describe_read_error(error: OSError) -> str:
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

    Nothing else is opened: a pipe would be waited for, and a device may have no end.

    Raises:
        ValueError: it is no regular file, a link to nothing, or larger than ``largest`` bytes.
        OSError: it cannot be read.
    """
    if not path.is_file():
        if path.exists():
            raise ValueError("not a regular file")
        if path.is_symlink():
            raise ValueError(f"a link to {path.readlink()}, which is not there")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise ValueError(f"larger than {largest:,} bytes")
        content = file.read(largest + 1)
    if len(content) > largest:  # it has grown
        raise ValueError(f"larger than {largest:,} bytes")
    return content


def read_text(path: Path, largest: int = LARGEST) -> str:
    """A UTF-8 file's text, without the byte order mark that some editors put before it.

    Raises:
        ValueError: as :func:`read_bytes`, or it is not UTF-8.
        OSError: it cannot be read.
    """
    content = read_bytes(path, largest)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("not UTF-8 text but UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
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
    """A JSON value. NaN and Infinity are numbers, as Python writes them.

    Raises:
        ValueError: it is not JSON, nested beyond reason, has a key twice in one object, or a whole
            number beyond those with a fraction.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _whole(text: str) -> int:
    try:
        value = int(text)
        float(value)
    except (ValueError, OverflowError):  # Python reads 4300 digits at most
        raise ValueError(f"the number {text[:20]}... is out of range") from None
    return value


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
