"""The cells of a sweep's tables as text, for every format that a table is written in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .file import Sweep
from .results import Cell, Difference, Differences, Results, published

NONE = "n/a"
#: heading of published figures: they were measured on other images than the sweep's
PUBLISHED = "published, other test images"
REDUCED = "Reduced settings, not a result"


class Cells(NamedTuple):
    """A table as text: its headings, and its rows of as many cells."""

    head: list[str]
    body: list[list[str]]


def figures_table(sweep: Sweep, results: Sequence[Results]) -> Cells:
    """The metrics of each row, with intervals; a single row becomes a line for each metric."""
    metrics, with_paper = sweep.table.metrics, bool(sweep.table.paper)
    if len(results) == 1:  # one row would be a very wide table
        only, paper = results[0], published(sweep, results[0].row.label)
        body = [[m, *_ours(only.cells[m]), *[_paper(paper[m])][:with_paper]] for m in metrics]
        return Cells(["", "ours", "95 % interval", *[PUBLISHED][:with_paper]], body)
    head = [""]
    for metric in metrics:
        head += [metric, PUBLISHED] if with_paper else [metric]
    body = []
    for result in results:
        paper = published(sweep, result.row.label)
        cells = [result.row.label]
        for metric in metrics:
            ours, interval = _ours(result.cells[metric])
            cells.append(ours if interval == NONE else f"{ours} ({interval})")
            cells += [_paper(paper[metric])] if with_paper else []
        body.append(cells)
    return Cells(head, body)


def differences_table(sweep: Sweep, gaps: Differences) -> Cells:
    """Each row minus its baseline; the tests of the primary metric have columns of their own."""
    primary = primary_metric(sweep)
    columns: list[tuple[str, str, Callable[[Difference | None], str]]] = [(primary, primary, _gap)]
    if tested(sweep, gaps):
        columns += [("p", primary, _p), (f"{primary}, patients alone", primary, _alone)]
    columns += [(metric, metric, _gap) for metric in sweep.table.metrics if metric != primary]
    body = [
        [label, *(show(found.get(metric)) for _, metric, show in columns)]
        for label, found in gaps.items()
    ]
    return Cells(["", *(title for title, _, _ in columns)], body)


def primary_metric(sweep: Sweep) -> str:
    """The metric whose differences are tested."""
    return sweep.table.primary or sweep.table.metrics[0]


def tested(sweep: Sweep, gaps: Differences) -> list[Difference]:
    """The differences in the primary metric that have a p-value."""
    primary = primary_metric(sweep)
    return [found[primary] for found in gaps.values()
            if primary in found and found[primary].adjusted is not None]  # fmt: skip


def _paper(figure: float) -> str:
    return NONE if math.isnan(figure) else f"{figure:g}"


def _ours(cell: Cell) -> tuple[str, str]:
    estimate = cell.estimate
    if not estimate.values:
        return NONE, NONE
    spread = "" if math.isnan(estimate.sd) else f" ± {format_figure(estimate.sd)}"
    ours = format_figure(estimate.value) + spread
    if cell.interval is None:
        return ours, NONE
    return ours, f"{format_figure(cell.interval[0])} to {format_figure(cell.interval[1])}"


def format_figure(value: float) -> str:
    """Three decimals, fewer for large figures."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _gap(gap: Difference | None) -> str:
    if gap is None:
        return NONE
    star = "*" if gap.significant else ""
    return f"{gap.estimate.value:+.3f}{star}{_ends(gap.estimate.interval or gap.estimate.patients)}"


def _alone(gap: Difference | None) -> str:
    patients = gap.estimate.patients if gap else None
    return NONE if patients is None else f"{patients[0]:+.3f} to {patients[1]:+.3f}"


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:+.3f} to {interval[1]:+.3f})"


def _p(gap: Difference | None) -> str:
    if gap is None or gap.adjusted is None:
        return NONE
    return "<0.001" if gap.adjusted < 0.001 else f"{gap.adjusted:.3f}"
