"""The picture of an audit: generated images beside their nearest training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xraygan.report.plots import COLOURS, FIGURE_STYLE, figure_bytes

ACROSS = 4  # pairs in a row of a panel
IMAGE = 0.6  # inches
GAP = 0.12  # between pairs
TEXT = 0.16  # height of a line of text
FLAG = COLOURS[1]
LEGEND = (
    "Below a pair: distance to the nearest training image over the mean distance to the next ones. "
    "Framed: flagged, relatively nearer than 99 % of held-out images are."
)

Pair = tuple[np.ndarray, np.ndarray, str, bool]


def draw_pairs(panels: Sequence[tuple[str, Sequence[Pair]]]) -> bytes:
    """Draw panels of pairs, two panels in a row, as the content of a PNG file.

    Args:
        panels: for each panel a title, and pairs: two images ``(S, S)`` uint8, the text below them,
            and whether they are framed.
    """
    with style.context(["default", FIGURE_STYLE]), matplotlib.rc_context({"font.size": 7}):
        return figure_bytes(_draw_figure(panels), bbox_inches="tight", pad_inches=0.08)


def _draw_figure(panels: Sequence[tuple[str, Sequence[Pair]]]) -> Figure:
    pitch, step = 2 * IMAGE + GAP, IMAGE + TEXT + GAP
    width = ACROSS * pitch
    blocks = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    heights = [
        3 * TEXT + step * max(-(-len(pairs) // ACROSS) for _, pairs in block) for block in blocks
    ]
    across, tall = 2 * width + 3 * GAP, sum(heights) + TEXT
    figure = Figure(figsize=(across, tall))
    figure.text(0, TEXT / tall, LEGEND, va="bottom")
    top = tall
    for block, height in zip(blocks, heights, strict=True):
        for side, (title, pairs) in enumerate(block):
            left = side * (width + 3 * GAP)
            figure.text(left / across, (top - TEXT) / tall, title, fontsize=8, va="bottom")
            for i, pair in enumerate(pairs):
                x = left + i % ACROSS * pitch
                y = top - 1.5 * TEXT - (i // ACROSS + 1) * step + TEXT + GAP
                position = (x / across, y / tall, 2 * IMAGE / across, IMAGE / tall)
                _draw_pair(figure.add_axes(position), *pair)
        top -= height
    return figure


def _draw_pair(axes: Axes, left: np.ndarray, right: np.ndarray, text: str, framed: bool) -> None:
    axes.imshow(np.hstack([left, right]), cmap="gray", vmin=0, vmax=255)
    options: Any = {"color": FLAG, "fontweight": "bold"} if framed else {}
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, labelpad=2, **options)
    axes.spines[:].set(visible=framed, color=FLAG, linewidth=1.5)
