"""Readers of files, TOML and JSON that may come from anywhere; any fault is a ValueError."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

#: default for the most bytes of a file; a recipe has a few thousand
LARGEST = 1 << 20

#: a key with many parts, for which the parser needs memory of the square of their number
_ENDLESS_KEY = re.compile(r"""(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){32}""")


def describe_read_error(error: OSError) -> str:
    """A message about a file or folder that the operating system cannot read."""
    return f"{error.filename}: cannot be read ({error.strerror})"


def is_file(path: Path) -> bool:
    """Whether a file exists; false for names that are too long or invalid."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a regular file.

    Only regular files are opened: a pipe would block, and a device may be endless.

    Raises:
        ValueError: it is not a regular file, is a broken link, or is larger than ``largest`` bytes.
        OSError: it cannot be read.
    """
    if not path.is_file():
        if path.exists():
            raise ValueError("not a regular file")
        if path.is_symlink():
            raise ValueError(f"a link to {path.readlink()}, which does not exist")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise ValueError(f"larger than {largest:,} bytes")
        content = file.read(largest + 1)
    if len(content) > largest:  # it has grown
        raise ValueError(f"larger than {largest:,} bytes")
    return content


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors write.

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
        ValueError: it is not TOML, or nested too deeply.
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
    """A JSON value, with NaN and Infinity as Python writes them.

    Raises:
        ValueError: it is not JSON, is nested too deeply, has a key twice in one object, or has a
            whole number beyond the range of a float.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_int=_parse_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} occurs twice")
    return table


def _parse_whole(text: str) -> int:
    try:
        value = int(text)
        float(value)
    except (ValueError, OverflowError):  # Python reads at most 4300 digits
        raise ValueError(f"the number {text[:20]}... is out of range") from None
    return value


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
