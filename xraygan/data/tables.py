"""Reads CSV tables and lists; whatever is wrong with a file becomes a UserError."""

from __future__ import annotations

import codecs
import csv
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xraygan.errors import UserError, did_you_mean
from xraygan.utils.csv_cells import unescape_formula
from xraygan.utils.parsing import describe_read_error, read_bytes

AGE = re.compile(r"(\d+(?:\.\d+)?)([YMWD]?)", re.ASCII)
AGE_UNITS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}

#: bytes; the table of ChestX-ray14 has a thirtieth of it
LARGEST = 2**28


def read_table(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    aliases: Mapping[str, str] | None = None,
    remedy: str = "mend the file",
) -> pd.DataFrame:
    """Some columns of a CSV file with a header, as text.

    Lines may end in any way, and blank ones are skipped. An apostrophe that guards a cell from
    being read as a formula is removed: see :mod:`xraygan.utils.csv_cells`.

    Args:
        columns: their names in the header; the first is what messages name a row by.
        aliases: other names that the header may have for them.
        remedy: what to do about a fault of the file, as the end of a sentence.

    Returns:
        One row an entry, indexed by its line in the file.

    Raises:
        UserError: the file cannot be read, is no CSV table, lacks a column or has it twice, or a
            row has another number of fields than the header.
    """
    text = _read_text(path, "CSV table", remedy).replace("\r\n", "\n").replace("\r", "\n")
    # From a list of lines: from a file it would take three times as long.
    rows = csv.reader(text.split("\n"), delimiter=delimiter, strict=True)
    try:
        names = [unescape_formula(name.strip()) for name in next(rows, [])]
        header = [(aliases or {}).get(name, name) for name in names]
        while header and not header[-1]:
            header.pop()  # lines may end with a delimiter
        indices = [_column_index(path, header, name, delimiter, remedy) for name in columns]
        lines, cells = _read_rows(path, rows, len(header), indices, delimiter, remedy)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: not a CSV table ({error}); {remedy}"
        ) from None
    if "'" in text:
        cells = [unescape_formula(cell) for cell in cells]
    texts = {name: cells[i :: len(columns)] for i, name in enumerate(columns)}
    return pd.DataFrame(texts, index=lines, dtype=str)


def _read_rows(
    path: Path, rows: Any, width: int, indices: Sequence[int], delimiter: str, remedy: str
) -> tuple[list[int], list[str]]:
    """The line number of each row, and the cells of some columns, row after row in one list.

    A list for each row would be 100,000 objects for the garbage collector to visit.

    Args:
        rows: a :func:`csv.reader` that has read the header.
        width: columns of the header.
        indices: of the columns.

    Raises:
        UserError: a row has another number of fields than the header.
    """
    lines: list[int] = []
    cells: list[str] = []
    for row in rows:
        if not any(row):
            continue
        if len(row) != width and (len(row) < width or any(row[width:])):
            raise UserError(
                f"{path}, line {rows.line_num}: {len(row)} fields, and the header has "
                f"{width} (put a field that contains {delimiter!r} in quotes); {remedy}"
            )
        lines.append(rows.line_num)
        cells += [row[index] for index in indices]
    return lines, cells


def read_lines(path: Path, remedy: str) -> list[str]:
    """The lines of a text file, without spaces around them.

    Raises:
        UserError: it cannot be read, or is not text.
    """
    return [line.strip() for line in _read_text(path, "list", remedy).splitlines()]


def normalized_name(name: str) -> str:
    """A name in a form that all its spellings share: they may differ in case, spaces, underscores
    and Unicode's forms."""
    composed = unicodedata.normalize("NFC", name)
    return re.sub(r"[\s_]+", " ", composed).strip().casefold()


def read_ages(path: Path, table: pd.DataFrame, column: str, title: str) -> pd.Series:
    """A column of ages in years, float, NaN where it is empty.

    It may hold ``"58"``, ``"58.5"``, or DICOM's ``"058Y"``, ``"018M"``, ``"005D"``.

    Args:
        title: the column's name in the file.

    Raises:
        UserError: a cell is no age; the message names its line.
    """
    years: dict[str, float] = {"": math.nan}
    for text in table[column].unique():
        if match := AGE.fullmatch(text):
            years[text] = float(match[1]) * AGE_UNITS[match[2]]
        elif text:
            fault = f"the {title} is {text!r}; expected a number such as 58 or 058Y"
            raise_at_row(path, table, table[column] == text, fault)
    return table[column].map(years).astype(float)


def raise_at_row(path: Path, table: pd.DataFrame, wrong: pd.Series, fault: str) -> None:
    """Raise a UserError for the first row, if any, where ``wrong`` is True."""
    if wrong.any():
        line = wrong.idxmax()
        name = str(table.at[line, table.columns[0]])
        shown = name if name.isprintable() and len(name) <= 80 else f"{name[:80]!r}"
        raise UserError(f"{path}, line {line}{f' ({shown})' if name else ''}: {fault}")


def _read_text(path: Path, kind: str, remedy: str) -> str:
    try:
        content = read_bytes(path, LARGEST)
    except OSError as error:
        raise UserError(describe_read_error(error)) from None
    except ValueError as error:
        raise UserError(f"{path}: not a {kind} ({error}); {remedy}") from None
    position, reason = content.find(b"\0"), "a zero byte"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        position, reason = 0, "UTF-16 text; save it as UTF-8"
    elif position < 0:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            position, reason = error.start, "not UTF-8 text; save it as UTF-8"
    line = len((content[:position] + b".").splitlines())
    raise UserError(f"{path}, line {line}: not a {kind} ({reason}); {remedy}")


def _column_index(path: Path, header: list[str], name: str, delimiter: str, remedy: str) -> int:
    """The index of a column in the header.

    Raises:
        UserError: the header lacks it, or has it twice.
    """
    if not header:
        raise UserError(f"{path}: not a CSV table (its first line is empty); {remedy}")
    if (count := header.count(name)) == 1:
        return header.index(name)
    if count:
        raise UserError(f"{path}, line 1: the column {name!r} is there twice; {remedy}")
    message = f"{path}, line 1: no column {name!r}"
    if len(header) == 1:
        message += f" (nor any {delimiter!r} between columns)"
    shown = [column[:40] for column in header if column.isprintable()][:30]
    raise UserError(f"{message}; {remedy}; {did_you_mean(name, shown)}")
