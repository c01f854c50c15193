"""What each file of a run directory is read as: one reader a kind of file, for every command.

A reader of pages (:class:`xraygan.rundir.reader.RunFiles`) leaves out what cannot be read and names
it; a command that needs the file stops with :func:`needed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from xraygan.errors import UserError
from xraygan.utils.csv_cells import numbers, parse_csv
from xraygan.utils.parsing import parse_json, parse_toml, read_text

from .file_schemas import AuditFile, EnvironmentFile, EvaluationFile, Line, RecipeFile, check

#: bytes of a file; the log of a million steps has half of it
LARGEST = 1 << 29

Object = dict[str, Any]
Predictions = list[tuple[str, np.ndarray, np.ndarray]]
Read = TypeVar("Read")


def needed(path: Path, parse: Callable[[str], Read], remedy: str) -> Read:
    """What a file holds, for a command that does not go on without it.

    Args:
        remedy: what to do where it cannot be read, as the end of a sentence.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not what a run writes; the message names the file, the line or key and
            what was expected.
    """
    try:
        return parse(read_text(path, LARGEST))
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path}: {reason}; {remedy}")


def recipe(text: str) -> Object:
    """The tables of ``recipe.toml``."""
    return check(parse_toml(text), RecipeFile)


def environment(text: str) -> Object:
    """The content of ``environment.json``."""
    return check(parse_json(text), EnvironmentFile)


def evaluation(text: str) -> Object:
    """The content of ``evaluation.json``."""
    return check(parse_json(text), EvaluationFile)


def audit(text: str) -> Object:
    """The content of ``audit.json``."""
    return check(parse_json(text), AuditFile)


def lines(text: str) -> list[Object]:
    """The objects of ``metrics.jsonl``."""
    found, broken = some_lines(text)
    if broken:
        raise ValueError(broken[0])
    return found


def some_lines(text: str) -> tuple[list[Object], list[str]]:
    """Those lines of ``metrics.jsonl`` that can be read, and what is wrong with the others.

    Of the last line nothing is said: a crash may have cut it short.
    """
    found, broken = [], []
    texts = text.splitlines()
    for number, line in enumerate(texts, start=1):
        try:
            found.append(check(parse_json(line), Line))
        except ValueError as error:
            if number < len(texts) or text.endswith("\n"):
                broken.append(f"line {number}: {error}")
    return found, broken


def predictions(text: str) -> Predictions:
    """Each class of ``predictions.csv`` with its labels and its probabilities, ``(N,)`` each."""
    table = parse_csv(text)
    names = [column[6:] for column in table.columns if column.startswith("label:")]
    if not names:
        raise ValueError("line 1: expected a column of a class, such as 'label:NAME'; found none")
    return [(n, labels(table, f"label:{n}"), numbers(table, f"p:{n}", 0, 1)) for n in names]


def read_number_table(path: Path, remedy: str, whole: str) -> pd.DataFrame:
    """A CSV table of numbers that the toolkit wrote, NaN where a cell is empty.

    Args:
        remedy: what to do where it cannot be read, as the end of a sentence.
        whole: the column of whole numbers, which no row may lack; it becomes int64.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is no such table; the message names the file and the line.
    """

    def parse(text: str) -> pd.DataFrame:
        table = parse_csv(text)
        columns = {name: numbers(table, name, -math.inf, math.inf) for name in (whole, *table)}
        return pd.DataFrame(columns).astype({whole: int})

    return needed(path, parse, remedy)


def labels(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column of 0 and 1 as ``(N,)`` int."""
    if column not in table:
        raise ValueError(f"line 1: there is no column {column!r}")
    if (wrong := ~table[column].isin(["0", "1"])).any():
        line = wrong.idxmax()
        cell = table.at[line, column][:40]
        raise ValueError(f"line {line}, column {column!r}: expected 0 or 1, found {cell!r}")
    return table[column].to_numpy(int)


def classes(text: str) -> tuple[str, list[str], np.ndarray]:
    """What a table beside a sample grid tells of its images: ``"label"``, ``"condition"`` or
    ``"p"``, the names of the classes, and the values ``(N, K)``."""
    table = parse_csv(text)
    for what in ("label", "condition", "p"):
        columns = [column for column in table.columns if column.startswith(f"{what}:")]
        if columns:
            names = [column.removeprefix(f"{what}:") for column in columns]
            return what, names, np.column_stack([numbers(table, c, 0, 1) for c in columns])
    raise ValueError("line 1: expected a column of a class, such as 'label:NAME'; found none")
