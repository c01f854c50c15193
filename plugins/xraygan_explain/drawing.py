"""Draw panels of images side by side, as the content of a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps, style
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from xraygan.plugin_api import FIGURE_STYLE, axes_in_inches, draw_mosaic, figure_bytes

IMAGE = 0.9  # inches
APART = 0.25  # inches between panels
HEAT = colormaps["inferno"]
EDGED = [withStroke(linewidth=1.2, foreground="black")]  # so that text is readable on white too
STRONGEST = 0.65  # opacity of the colour at the maximum of a heat map


class Panel(NamedTuple):
    """Rows of images ``(S, S)`` or ``(S, S, 3)`` uint8, each with a short text on it.

    Attributes:
        title: the title above the panel.
        names: the names of the rows.
        rows: for each row, its images and their texts.
        columns: images in a row, at most.
    """

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[tuple[np.ndarray, str]]]
    columns: int


def draw(panels: Sequence[Panel]) -> bytes:
    """Draw panels side by side; all have the row names of the first."""
    with style.context(["default", FIGURE_STYLE]), matplotlib.rc_context({"font.size": 7}):
        height = max(len(panel.rows) for panel in panels) * IMAGE
        across = sum(panel.columns for panel in panels) * IMAGE + (len(panels) - 1) * APART
        figure = Figure(figsize=(across, height))
        left = 0.0
        for panel in panels:
            axes = axes_in_inches(figure, left, 0, panel.columns * IMAGE, height)
            side = next((image.shape[0] for row in panel.rows for image, _ in row), 1)
            images = [[image for image, _ in row] for row in panel.rows]
            pitch = draw_mosaic(axes, images, panel.columns, side)
            for y, row in enumerate(panel.rows):
                for x, (_, text) in enumerate(row):
                    position = (x * pitch + side * 0.04, y * pitch + side * 0.96)
                    look: Any = {"color": "white", "fontsize": 6, "path_effects": EDGED}
                    axes.text(*position, text, va="bottom", **look)
            axes.set_title(panel.title, fontsize=8)
            if not left:
                axes.set_yticks(axes.get_yticks(), panel.names)
            left += panel.columns * IMAGE + APART
        return figure_bytes(figure, bbox_inches="tight", pad_inches=0.08)


def overlay_heat(greys: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Overlay images ``(N, S, S)`` uint8 with heat maps ``(N, S, S)``: ``(N, S, S, 3)`` uint8.

    Each map is scaled by its own maximum, so colours compare positions in an image, not images.
    """
    maximum = heat.max(axis=(1, 2), keepdims=True)
    share = np.divide(heat, maximum, out=np.zeros_like(heat), where=maximum > 0)
    cover = STRONGEST * share[..., None]
    mixed = (1 - cover) * greys[..., None] + cover * 255 * HEAT(share)[..., :3]
    return mixed.round().astype(np.uint8)
