"""The results of a utility study, made again from its runs and compared with its files."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.rundir.file_readers import LARGEST
from xraygan.study.again import results_again, tested_runs
from xraygan.study.page import texts
from xraygan.utils.parsing import parse_json, read_text

from .report import Report
from .tables import compare_csv, compare_text, same_figure

#: the file that makes a folder a study
FILE = "utility.json"
#: the folders of a study with runs
PARTS = ("choice", "test")


def check_study(report: Report, folder: Path) -> None:
    """Compare ``utility.json``, ``utility.csv`` and ``utility.md`` with what the runs give.

    What was chosen on validation images is chosen again, by the rules of a study.
    """
    path = folder / FILE
    try:
        content = parse_json(read_text(path, LARGEST))
        again = results_again(folder, deepcopy(content))
        made = texts(again, tested_runs(folder, content))
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        report.differs(path, f"the results cannot be made again: {error}")
        return
    pairs = [
        (key, expected, found)
        for key, expected, found in _differences(again, content)
        if not same_figure(str(expected), str(found))
    ]
    report.all_differ(path, "what its runs give", pairs, "says what its runs give")
    for name, text in made.items():
        try:
            there = read_text(folder / name, LARGEST)
        except (OSError, ValueError) as error:
            report.differs(folder / name, "a table of the study", "a file", str(error))
            continue
        if name.endswith(".csv"):
            compare_csv(report, folder / name, there, text, keys=("real", "arm"))
        else:
            compare_text(report, folder / name, there, text, content.get("xraygan", ""))
    for name in ("utility.html", "utility.png", "audit.json", "generated/, filtered/"):
        report.unchecked(folder / name.partition(",")[0], "not compared: no table is made of it")


def _differences(expected: Any, found: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values in which two JSON contents differ, by their keys."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in dict.fromkeys((*expected, *found)):
            yield from _differences(expected.get(name), found.get(name), f"{key}.{name}".strip("."))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, pair in enumerate(zip(expected, found, strict=True)):
            yield from _differences(*pair, f"{key}[{i}]")
    elif expected != found:
        yield key, expected, found
