"""The results of a utility study, made again from its runs and compared with its files."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.rundir.file_readers import LARGEST
from xraygan.study.again import results_again, tested_runs
from xraygan.study.page import html, texts
from xraygan.utils.parsing import parse_json, read_bytes, read_text

from .places import STUDY
from .report import Report
from .tables import (
    LAST_DECIMAL,
    compare_csv,
    compare_page,
    compare_picture,
    compare_text,
    read_or_report,
)
from .values import compare_values


def check_study(report: Report, folder: Path) -> None:
    """Compare the files of a study with what its runs and its ``audit.json`` give.

    What was chosen on validation images is chosen again, by the rules of a study.
    """
    from xraygan.study.figure import draw_figure  # matplotlib takes seconds to import

    path = folder / STUDY
    try:
        content = parse_json(read_text(path, LARGEST))
        again = results_again(folder, deepcopy(content))
        made = texts(again, tested_runs(folder, content))
        picture = draw_figure(again)
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        report.differs(path, f"the results cannot be made again: {error}")
        return
    pairs, _ = compare_values(content, again, LAST_DECIMAL, strict=True)
    given = "what its runs and audit.json give"
    report.all_differ(path, given, pairs, f"says {given}")
    version = content.get("xraygan", "")
    for name, text in made.items():
        there = read_or_report(report, folder / name, "a table of the study", read_text)
        if there is None:
            continue
        if name.endswith(".csv"):
            compare_csv(report, folder / name, there, text, keys=("real", "arm"))
        else:
            compare_text(report, folder / name, there, text, version)
    compare_picture(report, folder / "utility.png", picture)
    _check_page(report, folder, again, version)


def _check_page(report: Report, folder: Path, again: dict[str, Any], version: str) -> None:
    """Compare the page, with the pictures that lie beside it."""
    try:
        pictures = [read_bytes(folder / name, LARGEST) for name in ("utility.png", "audit.png")]
    except (OSError, ValueError) as error:
        report.differs(folder / "utility.html", "its pictures", "files beside it", str(error))
        return
    compare_page(report, folder / "utility.html", html(again, *pictures), version)
