"""Curves and images on axes: SVG in the colours of the report, and figures as files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from .html import Html, tag

BINS = 150  # most points of a curve; more cannot be seen at a panel's width
FEW = 12  # curves of fewer points get markers, so that a single point is visible
GAP = 5  # a line is broken where points are this many times the median distance apart

# Placeholder colours in an SVG. The page's own colours, light or dark, take their place.
SERIES, AXIS, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
RUNS = tuple(f"#0a0c{i:02x}" for i in range(6))
PAGE = {SERIES: "var(--series)", AXIS: "var(--axis)", GRID: "var(--grid)"}
PAGE |= {colour: f"var(--run-{i})" for i, colour in enumerate(RUNS)}

# Dashes of compared runs; with the colours twelve runs differ, on grey paper four.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 1.5, 1.5, 1.5))
MOST_RUNS = 12

# The palette of Okabe and Ito for colour-blind readers, without yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "0.55"

FIGURE_STYLE: Any = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a class may have a dollar in its name
}

RC: Any = FIGURE_STYLE | {
    "svg.fonttype": "none",
    "axes.edgecolor": AXIS,
    "axes.labelcolor": AXIS,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
}


def curve(runs: Sequence[tuple[np.ndarray, np.ndarray]], label: str) -> Html:
    """A value over training as SVG; see :func:`draw_series`.

    Args:
        runs: steps and values of each run.
        label: description of the figure for screen readers; each figure of a page needs its own.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.4, 1.9), layout="constrained")
        axes = figure.subplots()
        for i, (steps, values) in enumerate(runs):
            if np.isfinite(values).any():
                draw_series(axes, steps, values, **_line(i, len(runs)))
        axes.set_xlabel("step")
        return _svg(figure, label)


def _line(i: int, runs: int) -> dict[str, Any]:
    """Colour and dashes of the i-th run."""
    if runs == 1:
        return {"color": SERIES}
    dashes = DASHES[i % len(DASHES)]
    return {"color": RUNS[i % len(RUNS)], "linestyle": (0, dashes) if dashes else "-"}


def key(i: int) -> Html:
    """A short piece of the i-th run's line, for a legend."""
    stroke = tag("line", x1=0, y1=5, x2=28, y2=5, stroke_width=2.5, **_stroke(i))
    return tag("svg", stroke, viewBox="0 0 28 10", class_="key", aria_hidden="true")


def intervals(runs: Sequence[tuple[float, float, float] | None], label: str) -> Html:
    """Values with their intervals, one below the other, on one scale.

    Args:
        runs: value, low and high of each run; None for a run without a value.
        label: as for :func:`curve`.
    """
    known = [bound for run in runs if run for bound in run]
    start, end = min(known), max(known)
    if start == end:
        start, end = start - 1, end + 1
    scale = 108 / (end - start)
    marks = []
    for i, run in enumerate(runs):
        if run is None:
            continue
        x, low, high = (6 + (bound - start) * scale for bound in run)
        y = 7 + 11 * i
        line: Any = {"stroke": f"var(--run-{i % len(RUNS)})", "stroke_width": 2}
        marks.append(tag("line", x1=f"{low:.1f}", y1=y, x2=f"{high:.1f}", y2=y, **line))
        marks.append(tag("circle", cx=f"{x:.1f}", cy=y, r=3.5, fill=line["stroke"]))
    box = f"0 0 120 {11 * len(runs) + 3}"
    return tag("svg", *marks, viewBox=box, class_="intervals", role="img", aria_label=label)


def _stroke(i: int) -> dict[str, Any]:
    dashes = " ".join(f"{2 * length:g}" for length in DASHES[i % len(DASHES)])
    return {"stroke": f"var(--run-{i % len(RUNS)})", "stroke_dasharray": dashes or None}


def draw_series(axes: Axes, steps: np.ndarray, values: np.ndarray, **line: Any) -> None:
    """Draw a value over training: means of neighbouring steps, and their range behind the line.

    The line is broken where values are missing for many steps.

    Args:
        steps: ``(N,)``, rising.
        values: ``(N,)``; NaN for a missing value, finite at least once.
        line: options of matplotlib for the line; its ``color`` is also that of the range.
    """
    known = np.isfinite(values)
    size = -(-known.sum() // BINS)  # equal bins, so that all parts are equally smooth
    bins = np.array_split(np.flatnonzero(known), range(size, known.sum(), size))
    x = np.array([steps[b].mean() for b in bins])
    mean, low, high = (np.array([f(values[b]) for b in bins]) for f in (np.mean, np.min, np.max))
    if len(x) > 1:
        apart = np.diff(x)
        breaks = np.flatnonzero(apart > GAP * np.median(apart)) + 1
        x, mean, low, high = (np.insert(line, breaks, np.nan) for line in (x, mean, low, high))
    axes.fill_between(x, low, high, color=line["color"], alpha=0.2, linewidth=0)
    axes.plot(x, mean, marker="o" if len(bins) < FEW else None, markersize=3, **line)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def classifier_curves(runs: Sequence[tuple[np.ndarray, np.ndarray] | None], label: str) -> Html:
    """The ROC and the precision-recall curve of one class, side by side, as SVG.

    Thin dashed lines show a classifier that guesses.

    Args:
        runs: labels ``(N,)`` 0/1, both present, and finite probabilities ``(N,)`` of each run; None
            for a run without a curve.
        label: as for :func:`curve`.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(4.6, 2.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        guess: Any = {"color": AXIS, "linewidth": 0.8, "linestyle": (0, (3, 3))}
        left.plot([0, 1], [0, 1], **guess)
        for level in sorted({float(truth.mean()) for truth, _ in filter(None, runs)}):
            right.plot([0, 1], [level] * 2, **guess)
        for i, run in enumerate(runs):
            if run is not None:
                draw_roc(left, *run, **_line(i, len(runs)))
                draw_precision_recall(right, *run, **_line(i, len(runs)))
        for axes in (left, right):
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        return _svg(figure, label)


def draw_roc(axes: Axes, truth: np.ndarray, probs: np.ndarray, **line: Any) -> None:
    """Draw the ROC curve of one class into a unit square.

    Args:
        truth: ``(N,)`` 0/1, both present.
        probs: ``(N,)``, finite.
        line: options of matplotlib for the line.
    """
    false_positives, true_positives, _ = roc_curve(truth, probs)
    axes.plot(false_positives, true_positives, **line)
    _unit_square(axes, "false positive rate", "true positive rate")


def draw_precision_recall(axes: Axes, truth: np.ndarray, probs: np.ndarray, **line: Any) -> None:
    """Draw the precision-recall curve of one class; as :func:`draw_roc`."""
    precision, recall, _ = precision_recall_curve(truth, probs, drop_intermediate=True)
    precision[-1] = precision[-2]  # scikit-learn ends the curve at (0, 1), which no threshold gives
    axes.step(recall, precision, where="post", **line)
    _unit_square(axes, "recall", "precision")


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def axes_in_inches(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a position and of a size in inches."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height)
    )


def draw_mosaic(
    axes: Axes, rows: Sequence[Sequence[np.ndarray] | np.ndarray], columns: int, side: int
) -> int:
    """Draw rows of images, with an unlabelled tick for each row and column.

    A row that ends early is filled with white.

    Args:
        rows: images ``(side, side)`` uint8, or all of them ``(side, side, 3)``.

    Returns:
        The distance between the left edges of two images in pixels.
    """
    gap = max(1, side // 24)
    pitch = side + gap
    colours = next((cell.shape[2:] for row in rows for cell in row), ())
    shape = (len(rows) * pitch - gap, columns * pitch - gap, *colours)
    canvas = np.full(shape, 255, dtype=np.uint8)
    for y, row in enumerate(rows):
        if not len(row):
            axes.text(side / 2, y * pitch + side / 2, "none", color=GREY, ha="center", va="center")
        for x, cell in enumerate(row):
            canvas[y * pitch : y * pitch + side, x * pitch : x * pitch + side] = cell
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks(np.arange(columns) * pitch + (side - 1) / 2, [""] * columns)
    axes.set_yticks(np.arange(len(rows)) * pitch + (side - 1) / 2, [""] * len(rows))
    axes.tick_params(length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
    return pitch


def figure_bytes(figure: Figure, kind: str = "png", dpi: int = 160, **options: Any) -> bytes:
    """A figure as the content of a PNG, PDF or SVG file; the same figure gives the same bytes.

    Args:
        options: further options of ``Figure.savefig``.
    """
    stamps = {"png": ("Software",), "pdf": ("CreationDate",), "svg": ("Date",)}
    file = io.BytesIO()
    metadata: Any = dict.fromkeys(stamps[kind])
    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata, **options)
    return file.getvalue()


def _svg(figure: Figure, label: str) -> Html:
    """A figure as an ``<svg>`` element of a page."""
    file = io.StringIO()
    # The salt of the ids makes a report reproducible and the ids unique within a page.
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for placeholder, colour in PAGE.items():
        text = text.replace(placeholder, colour)
    return Html(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
