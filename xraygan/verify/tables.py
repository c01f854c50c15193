"""The tables of a sweep, made again from its runs and compared with the files."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import pandas as pd

from xraygan._version import __version__
from xraygan.errors import UserError
from xraygan.rundir.file_readers import LARGEST
from xraygan.sweep.file import FAST, Layout, Row, Sweep
from xraygan.sweep.plan import plan
from xraygan.sweep.record import Recorded
from xraygan.sweep.results import Results, collect_results
from xraygan.sweep.table import table_texts
from xraygan.utils.csv_cells import parse_csv
from xraygan.utils.parsing import read_bytes, read_text

from .report import Report
from .values import Pairs

#: how far figures of table.csv may differ: two in the last of the six decimals that it has
LAST_DECIMAL = 2e-6
#: columns of table.csv that need the baseline, which only sweep.json names
_OF_BASELINE = ("difference", "p", "p_holm", "detectable", "protocol", "split", "trained_on")

Content = TypeVar("Content", bytes, str)


def check_tables(report: Report, folder: Path, recorded: Recorded) -> None:
    """Make the tables of a sweep from its runs and compare them with those in its folder."""
    sweep, runs = recorded.sweep, recorded.runs
    try:
        results = collect_results(sweep, runs)
        texts = table_texts(sweep, results, runs, recorded.content.command)
    except UserError as error:
        report.differs(folder, f"the tables cannot be made again: {error}")
        return
    for name, made in texts.items():
        path = folder / name
        try:
            there = read_text(path, LARGEST)
        except FileNotFoundError:
            report.differs(path, "a table of the sweep", "a file", "none")
            continue
        except (OSError, ValueError) as error:
            report.differs(path, f"cannot be read: {error}")
            continue
        if name.endswith(".csv"):
            compare_csv(report, path, there, made)
        else:
            compare_text(report, path, there, made, recorded.content.xraygan)
    _check_figure(report, folder / "figure.png", sweep, results)


def check_former_table(report: Report, folder: Path) -> None:
    """Compare the figures of each row in the ``table.csv`` of an earlier version, which wrote no
    ``sweep.json``."""
    path = folder / "table.csv"
    try:
        there = read_text(path, LARGEST)
        table = parse_csv(there)
        sweep = _sweep_of(path, table)
        results = collect_results(sweep, plan(sweep, folder))
        made = table_texts(sweep, results, [], "")["table.csv"]
    except FileNotFoundError:
        report.unchecked(path, "there is no table")
        return
    except (OSError, ValueError, UserError) as error:
        report.differs(path, f"cannot be made again: {error}")
        return
    compare_csv(report, path, there, made, without=_OF_BASELINE)
    report.unchecked(
        path,
        "the differences from a baseline, and table.md: the folder is of an earlier version, which "
        "did not write sweep.json. The sweep's command, given again, writes it and all tables",
    )


def _sweep_of(path: Path, table: pd.DataFrame) -> Sweep:
    """The sweep whose rows, metrics and seeds an earlier ``table.csv`` and its folder have."""
    if absent := [name for name in ("row", "metric") if name not in table]:
        raise ValueError(f"line 1: there is no column {absent[0]!r}")
    labels, metrics = (list(dict.fromkeys(table[name])) for name in ("row", "metric"))
    paper: dict[str, list[float]] = {}
    if "paper" in table:
        cells = table.set_index(["row", "metric"])["paper"]
        paper = {
            label: [float(cells.get((label, metric)) or "nan") for metric in metrics]
            for label in labels
        }
        paper = {label: f for label, f in paper.items() if not all(map(math.isnan, f))}
    rows = [Row(label, "", "", "", {}) for label in labels]
    seeds = {
        int(seed)
        for row in rows
        for run in (path.parent / "recipes").glob(f"{row.slug}-seed-*.toml")
        if (seed := run.stem.rpartition("-")[2]).isdecimal()
    }
    reduced = FAST if "True" in {*table.get("reduced", [])} else ""
    layout = Layout(metrics=metrics, paper=paper)
    return Sweep(path, "", "", sorted(seeds), rows, layout, reduced, {})


def compare_csv(
    report: Report,
    path: Path,
    there: str,
    made: str,
    without: Sequence[str] = (),
    keys: tuple[str, str] = ("row", "metric"),
) -> None:
    """Compare the cells of a table with those that its runs give.

    Args:
        there, made: the text of the file, and the text that the runs give.
        without: columns that are not compared.
        keys: columns that name a line in messages.
    """
    try:
        old, new = parse_csv(there), parse_csv(made)
    except ValueError as error:
        report.differs(path, str(error))
        return
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        shape = [f"{len(table)} rows of {', '.join(table.columns)}" for table in (new, old)]
        report.differs(path, "the rows and columns that its runs give", *shape)
        return
    pairs: Pairs = []
    columns = (
        [c for c in old.columns if not c.startswith("difference") and c not in without]
        if (without)
        else list(old.columns)
    )
    # By position: a cell with a line break moves the line numbers of the cells after it.
    for row, line in enumerate(old.index):
        there_cells, made_cells = old.iloc[row], new.iloc[row]
        for column in columns:
            first, second = there_cells[column], made_cells[column]
            if not same_figure(first, second):
                name = ", ".join(there_cells[key] for key in keys)
                pairs.append((f"line {line}, {name}, {column}", second, first))
    text = "what its runs give"
    report.all_differ(path, text, pairs, f"{len(old)} lines are {text}")


def same_figure(first: str, second: str) -> bool:
    """Whether two texts are equal, or figures that differ in the last decimals."""
    if first == second:
        return True
    try:
        a, b = float(first), float(second)
    except ValueError:
        return False
    return abs(a - b) <= LAST_DECIMAL * max(1.0, abs(a), abs(b))


def compare_text(report: Report, path: Path, there: str, made: str, version: str) -> None:
    """Compare the lines of a table in Markdown or LaTeX.

    Args:
        version: the version of xraygan that wrote it.
    """
    old, new = there.splitlines(), made.splitlines()
    pairs: Pairs = []
    matcher = difflib.SequenceMatcher(None, new, old, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            continue
        for n in range(max(j - i, m - k)):
            expected = new[i + n] if i + n < j else None
            found = old[k + n] if k + n < m else None
            pairs.append((f"line {min(k + n, len(old)) + 1}", expected, found))
    if pairs and version != __version__:
        report.unchecked(
            path,
            f"{len(pairs)} lines differ from those of this version ({__version__}); xraygan "
            f"{version} wrote them and may have worded them otherwise, so only rows are compared",
        )
        pairs = [pair for pair in pairs if _is_row(pair[1]) and _is_row(pair[2])]
    text = "the line that its runs give"
    report.all_differ(path, text, pairs, f"{len(old)} lines are those that its runs give")


def _is_row(line: str | None) -> bool:
    """Whether a line of ``table.md`` is a row with figures; its head has an empty first cell."""
    return line is not None and line.startswith("| ") and not line.startswith(("|  |", "| --- "))


def _check_figure(report: Report, path: Path, sweep: Sweep, results: Sequence[Results]) -> None:
    from xraygan.sweep.figure import draw_figure  # matplotlib takes seconds to import

    compare_picture(report, path, draw_figure(sweep, results))


def read_or_report(
    report: Report, path: Path, what: str, read: Callable[[Path, int], Content]
) -> Content | None:
    """The content of a file; None, and a difference in the report, if it cannot be read.

    Args:
        what: what the file is.
    """
    try:
        return read(path, LARGEST)
    except (OSError, ValueError) as error:
        report.differs(path, what, "a file", str(error))
        return None


def compare_picture(report: Report, path: Path, made: bytes) -> None:
    """Compare a picture of results with the one that their runs give.

    Args:
        made: the bytes of the PNG file that is drawn from the runs.
    """
    there = read_or_report(report, path, "the picture of the results", read_bytes)
    if there is None:
        return
    if there == made:
        report.holds(path, "is the picture that its runs give")
    else:
        report.unchecked(path, "its pixels differ from those that are drawn here; another version "
                         "of matplotlib or other fonts do that too, so look at it")  # fmt: skip


def compare_page(report: Report, path: Path, made: str, version: str) -> None:
    """Compare an HTML page with the one that its runs give.

    Args:
        version: the version of xraygan that wrote it.
    """
    there = read_or_report(report, path, "the page of the results", read_text)
    if there is None:
        return
    if there == made:
        report.holds(path, "is the page that its runs give")
    elif version != __version__:
        report.unchecked(path, f"xraygan {version} wrote it, and this version ({__version__}) "
                         "writes another page")  # fmt: skip
    else:
        # An element is the least that a reader can find again; lines may be as long as the page.
        pairs = zip_longest(made.split("<"), there.split("<"))
        expected, found = next(pair for pair in pairs if pair[0] != pair[1])
        report.differs(path, "its first other element", expected, found)
