"""A sweep's runs as a table: mean over seeds, intervals over patients, the paper's figures beside.

It reads run directories and nothing else, so a table can be made of whatever is done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..evaluate import percentile_interval
from ..rundir import write_atomically, write_table
from ..runfiles import RunFiles
from .file import Row, Sweep
from .provenance import incomparable, provenance
from .runner import Run

NONE = "n/a"
PATHS = ("data.root", "data.cache")  # of no concern to a reader of the table


@dataclass(frozen=True)
class Cell:
    """One figure of one row.

    Attributes:
        values: the figure of each seed that is done and has one.
        interval: 95 % percentile-bootstrap interval of the mean over those seeds, by resampling
            the test patients; None where the metric has no resamples or the seeds were not tested
            on the same patients.
        resamples: the mean over seeds in each resample, ``(B,)``.
        n: test images that it was measured on.
        notes: what the runs say of how it was measured.
    """

    values: list[float]
    interval: tuple[float, float] | None = None
    resamples: np.ndarray | None = None
    n: int = 0
    notes: frozenset[str] = frozenset()

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over seeds (n - 1); NaN of fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Results:
    """What one row's runs measured."""

    row: Row
    cells: dict[str, Cell]
    protocols: list[dict[str, Any]]
    patients: tuple[str, ...]
    seconds: list[float]


def write_tables(sweep: Sweep, runs: Sequence[Run], out: Path, command: str) -> Path:
    """Write ``table.md``, ``table.csv`` and ``figure.png`` of the runs that are done.

    Args:
        command: what repeats the sweep, for the table's foot.

    Returns:
        The path of ``table.md``.
    """
    results = [_gather(sweep, row, [r for r in runs if r.row is row]) for row in sweep.rows]
    differences = _differences(sweep, results)
    write_table(out / "table.csv", _long(sweep, results, differences))
    text = "\n".join(_markdown(sweep, results, differences, runs, command)) + "\n"
    write_atomically(out / "table.md", text)
    from .figure import write_figure  # matplotlib takes seconds to import

    write_figure(sweep, results, out / "figure.png")
    return out / "table.md"


# -- gathering -------------------------------------------------------------------------------------


def _gather(sweep: Sweep, row: Row, runs: Sequence[Run]) -> Results:
    done = [RunFiles(run.place.path) for run in runs if run.done]
    tested = {_patients(files) for files in done}
    same = len(tested) == 1
    cells = {}
    for metric in sweep.table.metrics:
        found = [f.evaluation.get("metrics", {}).get(metric) or {} for f in done]
        values = {i: float(m["value"]) for i, m in enumerate(found) if m.get("value") is not None}
        resamples = [_resamples(done[i], metric) for i in values]
        known = [r for r in resamples if r is not None]
        mean = None
        if same and known and len(known) == len(values) and len({len(r) for r in known}) == 1:
            mean = np.mean(known, axis=0)
        cells[metric] = Cell(
            values=list(values.values()),
            interval=None if mean is None else percentile_interval(mean),
            resamples=mean,
            n=max((found[i]["n"] for i in values), default=0),
            notes=frozenset(found[i]["note"] for i in values),
        )
    return Results(
        row,
        cells,
        [files.evaluation.get("protocol", {}) for files in done],
        tested.pop() if same else (),
        [files.seconds for files in done],
    )


def _patients(files: RunFiles) -> tuple[str, ...]:
    """Whose images a run was tested on, image by image."""
    path = files.directory / "predictions.csv"
    if not path.exists():
        return ()
    return tuple(pd.read_csv(path, usecols=["patient"], dtype=str)["patient"])


def _resamples(files: RunFiles, metric: str) -> np.ndarray | None:
    path = files.directory / "bootstrap.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path)
    return table[metric].to_numpy(float) if metric in table else None


def _differences(sweep: Sweep, results: Sequence[Results]) -> dict[str, dict[str, Cell]]:
    """Each row less its baseline: row label -> metric -> the difference, patient by patient."""
    base = sweep.table.baseline
    found: dict[str, dict[str, Cell]] = {}
    for one in results:
        against = next(
            (
                r
                for r in results
                if r.row.label == base or (r.row.variant == base and r.row.point == one.row.point)
            ),
            None,
        )
        if against is None or against is one or one.patients != against.patients:
            continue
        found[one.row.label] = {}
        for metric, cell in one.cells.items():
            other = against.cells[metric]
            if not cell.values or not other.values:
                continue
            resamples = None
            if (
                cell.resamples is not None
                and other.resamples is not None
                and len(cell.resamples) == len(other.resamples)
            ):
                resamples = cell.resamples - other.resamples
            interval = None if resamples is None else percentile_interval(resamples)
            found[one.row.label][metric] = Cell([cell.mean - other.mean], interval, resamples)
    return found


# -- writing ---------------------------------------------------------------------------------------


def _long(
    sweep: Sweep, results: Sequence[Results], differences: Mapping[str, Mapping[str, Cell]]
) -> pd.DataFrame:
    """One line a row and metric, for those who go on computing."""
    lines = []
    for one in results:
        paper = sweep.table.paper.get(one.row.label, [math.nan] * len(sweep.table.metrics))
        protocol = one.protocols[0] if one.protocols else {}
        for metric, published in zip(sweep.table.metrics, paper, strict=True):
            cell = one.cells[metric]
            low, high = cell.interval or (math.nan, math.nan)
            gap = differences.get(one.row.label, {}).get(metric)
            gap_low, gap_high = (gap.interval if gap else None) or (math.nan, math.nan)
            lines.append(
                {
                    "row": one.row.label,
                    "metric": metric,
                    "mean": cell.mean,
                    "sd": cell.sd,
                    "low": low,
                    "high": high,
                    "seeds": len(cell.values),
                    "n": cell.n,
                    "paper": published,
                    "difference": gap.mean if gap else math.nan,
                    "difference_low": gap_low,
                    "difference_high": gap_high,
                    "protocol": protocol.get("name", ""),
                    "trained_on": protocol.get("trained_on", ""),
                    "reduced": sweep.reduced,
                }
            )
    return pd.DataFrame(lines).round(6)


def _markdown(
    sweep: Sweep,
    results: Sequence[Results],
    differences: Mapping[str, Mapping[str, Cell]],
    runs: Sequence[Run],
    command: str,
) -> list[str]:
    metrics = sweep.table.metrics
    lines = [f"# {sweep.title}", ""]
    if sweep.changed:
        changed = ", ".join(
            f"`{key} = {value}`" for key, value in sweep.changed.items() if key not in PATHS
        )
        says = "**Reduced settings, not a result:**" if sweep.reduced else "Settings changed:"
        lines += [f"{says} {changed}.", ""]
    if len(results) == 1:  # one row would be a very wide table
        paper = _published(sweep, results[0].row.label)
        body = [[m, *_ours(results[0].cells[m]), p] for m, p in zip(metrics, paper, strict=True)]
        lines += _table(["", "ours", "95 % interval", "paper"], body)
    else:
        head = [""]
        for metric in metrics:
            head += [metric, "paper"] if sweep.table.paper else [metric]
        body = []
        for one in results:
            cells = [one.row.label]
            for metric, published in zip(metrics, _published(sweep, one.row.label), strict=True):
                ours, interval = _ours(one.cells[metric])
                cells.append(ours if interval == NONE else f"{ours} ({interval})")
                cells += [published] if sweep.table.paper else []
            body.append(cells)
        lines += _table(head, body)
    lines += ["", _protocol(sweep, results), "", *_notes(metrics, results), ""]
    if differences:
        lines += [f"Difference from {sweep.table.baseline}, with its 95 % interval:", ""]
        body = [
            [label, *(_difference(cells.get(metric)) for metric in metrics)]
            for label, cells in differences.items()
        ]
        lines += [*_table(["", *metrics], body), ""]
    undone = [run for run in runs if not run.done]
    if undone:
        lines += ["Not in the table:", ""]
        lines += [
            f"- {run.row.label}, seed {run.seed}: {run.failure or 'not run yet'}" for run in undone
        ]
        lines.append("")
    lines += [*incomparable(metrics, runs), *provenance(runs)]
    lines += ["```sh", command, "```"]
    return lines


def _published(sweep: Sweep, label: str) -> list[str]:
    figures = sweep.table.paper.get(label)
    if figures is None:
        return [NONE] * len(sweep.table.metrics)
    return [NONE if math.isnan(figure) else f"{figure:g}" for figure in figures]


def _ours(cell: Cell) -> tuple[str, str]:
    if not cell.values:
        return NONE, NONE
    ours = number(cell.mean) + ("" if math.isnan(cell.sd) else f" ± {number(cell.sd)}")
    if cell.interval is None:
        return ours, NONE
    return ours, f"{number(cell.interval[0])} to {number(cell.interval[1])}"


def _difference(cell: Cell | None) -> str:
    if cell is None or not cell.values:
        return NONE
    text = f"{cell.mean:+.3f}"
    if cell.interval is not None:
        text += f" ({cell.interval[0]:+.3f} to {cell.interval[1]:+.3f})"
    return text


def number(value: float) -> str:
    """Three decimals, fewer for large figures."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _protocol(sweep: Sweep, results: Sequence[Results]) -> str:
    """How the figures came about, in sentences."""
    seeds = ", ".join(map(str, sweep.seeds))
    text = (
        f"Ours: mean ± standard deviation over seeds ({seeds}), and the 95 % interval of the mean "
        "by a bootstrap over test patients. "
    )
    found = [p for one in results for p in one.protocols]
    named = {(p.get("name"), p.get("dataset"), p.get("images"), p.get("patients")) for p in found}
    for name, dataset, images, patients in sorted(named, key=str):
        text += f"Protocol `{name}` on {dataset}: {images} test images of {patients} patients. "
    trained = {one.row.label: one.protocols[0]["trained_on"] for one in results if one.protocols}
    if len({*trained.values()}) == 1:
        text += f"Classifiers learn from {next(iter(trained.values()))} images. "
    elif trained:
        each = "; ".join(f"{label}: {what}" for label, what in trained.items())
        text += f"Classifiers learn from: {each}. "
    if seconds := [s for one in results for s in one.seconds]:
        text += f"Training took {sum(seconds) / 60:.0f} min over {len(seconds)} runs."
    return text.rstrip()


def _notes(metrics: Sequence[str], results: Sequence[Results]) -> list[str]:
    """What every row says alike of how a metric was measured."""
    lines = []
    for metric in metrics:
        notes = frozenset().union(*(one.cells[metric].notes for one in results))
        if len(notes) == 1 and (note := next(iter(notes))):
            lines.append(f"- {metric}: {note}, n = {max(one.cells[metric].n for one in results)}")
    return lines


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


__all__ = ["Cell", "Results", "number", "write_tables"]
