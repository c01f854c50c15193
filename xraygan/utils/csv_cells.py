"""CSV files that the toolkit writes and reads, safe to open in a spreadsheet.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return as
a formula. Such text is written with an apostrophe before it, which spreadsheets treat as a mark of
text, and read without it. Numbers are written unchanged, also as text. Text that already has
apostrophes before such a character gets one more, so that reading restores it.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from .atomic_files import write_atomically

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_QUOTED = re.compile(r"'+[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


def escape_formula(text: str) -> str:
    """A text as it is written to a CSV file, so that it is never a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape_formula(text: str) -> str:
    """The inverse of :func:`escape_formula`."""
    return text[1:] if _QUOTED.match(text) else text


def as_csv(table: pd.DataFrame) -> str:
    """A table as the text of a CSV file, without its index and with formulas escaped."""
    safe = table.rename(columns=_escape_cell)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(_escape_cell)
    text = safe.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # unquoted, it would end a line
        text = safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text


def _escape_cell(cell: object) -> object:
    return escape_formula(cell) if isinstance(cell, str) else cell


def parse_csv(text: str) -> pd.DataFrame:
    """Parse a CSV file of the toolkit; all cells are text, with formulas unescaped.

    Returns:
        One row for each entry, indexed by its line in the file.

    Raises:
        ValueError: it is not a table, a column occurs twice, or a row has another number of fields
            than the header; with the line.
    """
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[int] = []
    entries: list[list[str]] = []
    try:
        header = next(rows, [])
        if not header:
            raise ValueError("line 1: expected the names of the columns, found nothing")
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise ValueError(f"line 1: the column {twice!r} occurs twice")
        for row in rows:
            if len(row) != len(header):
                raise ValueError(
                    f"line {rows.line_num}: expected {len(header)} fields, as the header has, "
                    f"found {len(row)}"
                )
            lines.append(rows.line_num)
            entries.append(row)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from None
    if "'" in text:
        header, *entries = [[unescape_formula(cell) for cell in row] for row in (header, *entries)]
    return pd.DataFrame(entries, index=lines, columns=header, dtype=str)


def numbers(table: pd.DataFrame, column: str, low: float, high: float) -> np.ndarray:
    """A column of :func:`parse_csv` as numbers ``(N,)`` float; NaN for empty cells and ``nan``.

    Raises:
        ValueError: there is no such column, or a cell is not a number from ``low`` to ``high``;
            with the line and the column.
    """
    if column not in table:
        raise ValueError(f"line 1: there is no column {column!r}")
    values = np.empty(len(table))
    for i, cell in enumerate(table[column]):
        try:
            values[i] = value = float(cell or "nan")
        except ValueError:
            value = math.inf
        if not (low <= value <= high or math.isnan(value)):
            span = "a number" if math.isinf(high) else f"a number from {low:g} to {high:,.10g}"
            raise ValueError(
                f"line {table.index[i]}, column {column!r}: expected {span}, found {cell[:40]!r}"
            )
    return values


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file with formulas escaped; see :func:`escape_formula`."""
    write_atomically(path, as_csv(table))
