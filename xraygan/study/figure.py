"""The picture of a study: the difference that each arm makes, with its interval and its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraygan.report.plots import COLOURS, FIGURE_STYLE, GREY, figure_bytes
from xraygan.statistics.paired_bootstrap import Estimate
from xraygan.utils.atomic_files import write_together

from .choice import Choice
from .design import AGAIN, describe_real
from .verdict import Outcomes

TESTED, OTHERS, TRIED = COLOURS[1], COLOURS[0], GREY


def write_figure(
    choices: Mapping[int | None, Choice], found: Outcomes, metric: str, path: Path
) -> None:
    """Write one column for each number of real images: above, the arms on test images; below, the
    candidates on validation images, if there was a choice.

    Args:
        metric: the name of the figure that is compared.
        path: the path of a ``.png`` file.
    """
    tried = max(len(choice.tried) for choice in choices.values())
    tested = max(len(arms) for arms in found.values()) - 1
    heights = [tested, tried] if tried else [tested]
    size = (2.2 + 2.3 * len(choices), 1.3 + 0.24 * sum(heights) + 0.5 * len(heights))
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(
            len(heights), len(choices), squeeze=False, sharey="row", sharex=True,
            height_ratios=heights,
        )  # fmt: skip
        for column, (real, choice) in enumerate(choices.items()):
            gaps = {n: one.gap for n, one in found[real].items() if n != AGAIN and one.gap}
            _panel(axes[0][column], gaps, choice.use, OTHERS)
            axes[0][column].set_title(f"real images: {describe_real(real)}", fontsize=8)
            if tried:
                _panel(axes[1][column], choice.tried, "", TRIED)
                axes[1][column].set_title("candidates, on validation images", fontsize=7)
        axes[-1][0].set_xlabel(f"difference in {metric} from repeated real images")
        write_together({path: figure_bytes(figure)})


def _panel(axes: Axes, gaps: Mapping[str, Estimate], chosen: str, colour: str) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, (name, gap) in enumerate(gaps.items()):
        shade = TESTED if name == chosen else colour
        values = list(gap.values.values())
        axes.plot(values, [y] * len(values), ".", color=shade, alpha=0.35, ms=4)
        axes.plot(gap.value, y, "o", color=shade, ms=5)
        if (interval := gap.interval or gap.patients) is not None:
            axes.plot(interval, [y, y], color=shade, linewidth=1.5)
    axes.set_yticks(range(len(gaps)), [*gaps])
    axes.set_ylim(len(gaps) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
