"""The figure of a sweep: the metrics of every row with intervals, beside the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraygan.report.plots import COLOURS, FIGURE_STYLE, figure_bytes
from xraygan.utils.atomic_files import write_together

from .cells import PUBLISHED
from .file import Sweep
from .results import Results

OURS, PAPER = COLOURS[:2]


def write_figure(sweep: Sweep, results: Sequence[Results], path: Path) -> None:
    """Write the figure of :func:`draw_figure` as a ``.png`` file."""
    write_together({path: draw_figure(sweep, results)})


def draw_figure(sweep: Sweep, results: Sequence[Results]) -> bytes:
    """One panel for each metric: means with 95 % intervals, and a small point for each seed.

    Args:
        results: one for each row, of :func:`xraygan.sweep.results.collect_results`.

    Returns:
        The content of a ``.png`` file.
    """
    metrics = sweep.table.metrics
    columns = min(len(metrics), 4)
    rows = -(-len(metrics) // columns)
    size = (2.0 + 2.4 * columns, rows * (1.0 + 0.32 * len(results)) + 0.6)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for panel, metric in zip(axes.flat, metrics, strict=False):
            _panel(panel, sweep, results, metric)
        for spare in axes.flat[len(metrics) :]:
            spare.set_visible(False)
        title = sweep.title + (" (reduced settings, not a result)" if sweep.reduced else "")
        figure.suptitle(title, fontsize=9)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False)
        return figure_bytes(figure)


def _panel(axes: Axes, sweep: Sweep, results: Sequence[Results], metric: str) -> None:
    column = sweep.table.metrics.index(metric)
    labels = [result.row.label for result in results]
    for y, result in enumerate(results):
        cell = result.cells[metric]
        if values := list(cell.estimate.values.values()):
            axes.plot(values, [y] * len(values), ".", color=OURS, alpha=0.35, ms=4)
            mean = cell.estimate.value
            axes.plot(mean, y, "o", color=OURS, ms=5, label="ours" if y == 0 else None)
            if cell.interval is not None:
                axes.plot(cell.interval, [y, y], color=OURS, linewidth=1.5)
        published = sweep.table.paper.get(result.row.label, [math.nan] * (column + 1))[column]
        if not math.isnan(published):
            axes.plot(published, y, "D", color=PAPER, mfc="none", ms=5, label=PUBLISHED)
    seen: set[str] = set()
    for line in axes.get_lines():  # a single entry of each in the legend
        name = str(line.get_label())
        if name in seen:
            line.set_label("_")
        seen.add(name)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_title(metric, fontsize=8)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
