"""The picture of a study: the difference that each arm makes, with its interval and its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xraygan.report.plots import COLOURS, FIGURE_STYLE, GREY, figure_bytes

from .design import BEFORE

TESTED, OTHERS, TRIED = COLOURS[1], COLOURS[0], GREY

#: fewest seeds whose interval is drawn: that of two is wider than everything beside it
_SEEDS = 3

Object = dict[str, Any]


def draw_figure(content: Object) -> bytes:
    """Draw one column for each number of real images: above, the arms on test images; below, the
    candidates on validation images, if there was a choice.

    Args:
        content: of ``utility.json``.

    Returns:
        The bytes of a PNG file.
    """
    with matplotlib.rc_context(FIGURE_STYLE):
        return figure_bytes(_figure(content))


def _figure(content: Object) -> Figure:
    results = content["real"]
    tested, tried = (
        [_differences(result[key]) for result in results] for key in ("arms", "tried_on_validation")
    )
    # Columns share the rows of a panel, and the candidates can differ between them.
    rows = list(dict.fromkeys(chain(*tested)))
    candidates = sorted(dict.fromkeys(chain(*tried)), key=lambda name: name == BEFORE)
    heights = [len(names) for names in (rows, candidates) if names]
    size = (2.2 + 2.3 * len(results), 1.5 + 0.24 * sum(heights) + 0.6 * len(heights))
    figure = Figure(figsize=size, layout="constrained")
    # Candidates have few runs and differ by more, so that each panel has a scale of its own.
    axes = figure.subplots(
        len(heights), len(results), squeeze=False, sharey="row", sharex="row",
        height_ratios=heights,
    )  # fmt: skip
    for column, result in enumerate(results):
        _panel(axes[0][column], rows, tested[column], result["chosen"], OTHERS)
        axes[0][column].set_title(f"real images: {result['described']}", fontsize=8)
        if len(heights) > 1:
            _panel(axes[1][column], candidates, tried[column], "", TRIED)
            axes[1][column].set_title("candidates, on validation images", fontsize=7)
    figure.supxlabel(f"difference in {content['metric']} from real images again", fontsize=8)
    keys = {TESTED: "chosen on validation images, and tested", OTHERS: "other arms"}
    marks = [Line2D([], [], color=c, marker="o", label=name) for c, name in keys.items()]
    one_seed = Line2D([], [], color=GREY, marker=".", ms=4, ls="", alpha=0.6, label="one seed")
    figure.legend(handles=[*marks, one_seed], loc="outside upper center", ncols=3, fontsize=7)
    return figure


def _differences(figures: Mapping[str, Object]) -> dict[str, Object]:
    """The differences from real images again, which itself has none, by arm or candidate."""
    return {name: one["difference"] for name, one in figures.items() if "difference" in one}


def _panel(
    axes: Axes, names: Sequence[str], gaps: Mapping[str, Object], chosen: str, colour: str
) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, name in enumerate(names):
        if (gap := gaps.get(name)) is None:
            continue
        shade = TESTED if name == chosen else colour
        values = list(gap["seeds"].values())
        below = [y + 0.25] * len(values)  # beside the interval, which would hide them
        axes.plot(values, below, ".", color=shade, alpha=0.45, ms=4)
        axes.plot(gap["value"], y, "o", color=shade, ms=5)
        interval = gap["interval"] or gap["patients"]
        if interval is not None and len(values) >= _SEEDS:
            axes.plot(interval, [y, y], color=shade, linewidth=1.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
