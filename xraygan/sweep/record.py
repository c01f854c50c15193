"""``sweep.json``: all that a sweep's tables are made of, besides its runs.

With it the folder of a sweep is complete in itself: the tables can be made again where neither the
sweep file nor the recipe that it names exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from xraygan._version import __version__
from xraygan.errors import UserError
from xraygan.rundir import file_readers
from xraygan.rundir.file_schemas import Schema, validated
from xraygan.utils.atomic_files import as_json
from xraygan.utils.naming import folder_fault
from xraygan.utils.parsing import parse_json, sha256

from .file import Layout, Row, Sweep
from .markdown import PATHS
from .plan import Run, plan

FILE = "sweep.json"


class RowRecord(Schema):
    label: str
    variant: str
    point: str


class SweepRecord(Schema):
    """The content of ``sweep.json``.

    Attributes:
        xraygan: the version that wrote the tables.
        recipes: the sha256 of the recipe of each run, by the run's name.
        failures: why runs failed, by their names.
        command: the command that repeats the sweep.
    """

    xraygan: str
    title: str
    name: str
    preset: str
    changed: dict[str, Any]
    seeds: list[int]
    rows: list[RowRecord]
    table: dict[str, Any]
    recipes: dict[str, str] = Field({})
    failures: dict[str, str] = Field({})
    command: str


@dataclass(frozen=True)
class Recorded:
    """A sweep as its folder records it.

    Attributes:
        sweep: its rows name no recipe; those are in ``recipes/``.
        runs: every run that it should have.
    """

    sweep: Sweep
    runs: list[Run]
    content: SweepRecord


def record(sweep: Sweep, runs: Sequence[Run], command: str) -> str:
    """The text of ``sweep.json``.

    Args:
        command: the command that repeats the sweep.
    """
    layout = sweep.table.model_dump()
    layout["paper"] = {  # JSON has no NaN
        label: [None if math.isnan(figure) else figure for figure in figures]
        for label, figures in sweep.table.paper.items()
    }
    return as_json({
        "xraygan": __version__,
        "title": sweep.title,
        "name": sweep.name,
        "preset": sweep.preset,
        "changed": {key: value for key, value in sweep.changed.items() if key not in PATHS},
        "seeds": sweep.seeds,
        "rows": [{"label": r.label, "variant": r.variant, "point": r.point} for r in sweep.rows],
        "table": layout,
        "recipes": {r.run_dir.path.name: sha256(r.recipe) for r in runs if r.recipe.is_file()},
        "failures": {r.run_dir.path.name: r.failure for r in runs if r.failure},
        "command": command,
    })  # fmt: skip


def read_record(folder: Path) -> Recorded:
    """The sweep that a folder records.

    Raises:
        FileNotFoundError: the folder has no ``sweep.json``; an earlier version wrote it.
        UserError: the file is not what a sweep writes.
    """

    def parse(text: str) -> tuple[SweepRecord, Layout]:
        content = SweepRecord.model_validate(validated(parse_json(text), SweepRecord))
        return content, _layout(content)

    path = folder / FILE
    remedy = "write it again with the sweep's command"
    content, layout = file_readers.needed(path, parse, remedy)
    rows = [Row(row.label, row.variant, row.point, "", {}) for row in content.rows]
    sweep = Sweep(
        path, content.name, content.title, content.seeds, rows, layout, content.preset,
        content.changed,
    )  # fmt: skip
    runs = plan(sweep, folder)
    for run in runs:
        name = run.run_dir.path.name
        if fault := folder_fault(name):  # it would lead out of the folder, for example
            raise UserError(f"{path}: rows: the name of a run {fault}; {remedy}")
        run.failure = content.failures.get(name, "")
    return Recorded(sweep, runs, content)


def _layout(content: SweepRecord) -> Layout:
    """The columns of the table; checked against the rows as those of a sweep file are.

    Raises:
        ValueError: they are not those of a sweep.
    """
    table = dict(content.table)
    paper = table.get("paper")
    if isinstance(paper, dict):
        table["paper"] = {
            label: [math.nan if figure is None else figure for figure in figures]
            for label, figures in paper.items()
            if isinstance(figures, list)
        }
    layout = Layout.model_validate(validated(table, Layout))
    if any(len(figures) != len(layout.metrics) for figures in layout.paper.values()):
        raise ValueError("table.paper: expected a figure for each metric")
    if layout.primary not in (None, *layout.metrics):
        raise ValueError("table.primary: expected one of the metrics")
    return layout
