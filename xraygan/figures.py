"""Figures for the report: curves as SVG, in the page's own colours."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from .page import Html

BINS = 150  # a curve's points; more cannot be told apart at a panel's width
FEW = 12  # fewer points than these are drawn as such, so that one alone is seen
GAP = 5  # times the usual distance between points: where a line is broken

# Colours that stand in an SVG for the page's, which follow the reader's light or dark scheme.
SERIES, AXIS, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
COLOURS = {SERIES: "var(--series)", AXIS: "var(--axis)", GRID: "var(--grid)"}

RC: Any = {
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": AXIS,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.formatter.useoffset": False,
}


def curve(steps: np.ndarray, values: np.ndarray, label: str) -> Html:
    """A value over training as SVG: the mean of neighbouring steps, and their range behind it.

    The line is broken where there was no value for long.

    Args:
        steps: ``(N,)``, rising.
        values: ``(N,)``; NaN where there is none, finite at least once.
        label: says what it shows, for those who do not see it; no two figures share one.
    """
    known = np.isfinite(values)
    bins = np.array_split(np.flatnonzero(known), min(BINS, known.sum()))
    x = np.array([steps[b].mean() for b in bins])
    mean, low, high = (np.array([f(values[b]) for b in bins]) for f in (np.mean, np.min, np.max))
    if len(x) > 1:
        apart = np.diff(x)
        breaks = np.flatnonzero(apart > GAP * np.median(apart)) + 1
        x, mean, low, high = (np.insert(line, breaks, np.nan) for line in (x, mean, low, high))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.4, 1.9), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(x, low, high, color=SERIES, alpha=0.2, linewidth=0)
        axes.plot(x, mean, color=SERIES, marker="o" if len(bins) < FEW else None, markersize=3)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return _svg(figure, label)


def classifier_curves(truth: np.ndarray, probs: np.ndarray, label: str) -> Html:
    """The ROC and the precision-recall curve of one class, side by side, as SVG.

    Dashed: a classifier that guesses.

    Args:
        truth: ``(N,)`` 0/1, both present.
        probs: ``(N,)``, finite.
        label: as for :func:`curve`.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(4.6, 2.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        false_positives, true_positives, _ = roc_curve(truth, probs)
        left.plot(false_positives, true_positives, color=SERIES)
        _unit_square(left, "false positive rate", "true positive rate", (0, 1))
        precision, recall, _ = precision_recall_curve(truth, probs, drop_intermediate=True)
        right.step(recall, precision, where="post", color=SERIES)
        _unit_square(right, "recall", "precision", (truth.mean(), truth.mean()))
        return _svg(figure, label)


def _unit_square(axes: Axes, x: str, y: str, guess: tuple[float, float]) -> None:
    axes.plot([0, 1], guess, color=AXIS, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _svg(figure: Figure, label: str) -> Html:
    """A figure as an ``<svg>`` element for the middle of a page."""
    file = io.StringIO()
    # Ids are hashes with this salt: the same report for the same run, no id twice in a page.
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for stands, colour in COLOURS.items():
        text = text.replace(stands, colour)
    return Html(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
