"""The images of runs on a page: grids over training with a slider, and images class by class."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from xraygan.rundir.reader import GAP, ByClass, RunFiles

from .html import Html, count, panel, tag

FRAMES = 12  # most grids of a run that are embedded, to keep the page small
WIDEST = 1400  # most pixels across an embedded picture; more than a page shows
BESIDE = 6  # images of a class

SOURCES = {
    "label": "",
    "condition": "The class of a generated image is the one that it was generated for.",
    "p": "The class of a generated image is the one that the run's classifier predicts.",
}


def over_training(
    runs: Sequence[tuple[object, str, RunFiles]], reals: Sequence[tuple[str, Image.Image]]
) -> Html:
    """Grids of real images, and grids of generated images, one step at a time.

    One slider moves all runs: each shows its newest grid up to the slider's step.

    Args:
        runs: heading of each run, its name in the descriptions of pictures, and its files. A run
            without grids is left out.
        reals: description of each grid of real images, and the grid.
    """
    limit = FRAMES if len(runs) == 1 else FRAMES // 2 + 2
    widest = WIDEST if len(runs) == 1 else WIDEST // 2
    sampled = [(head, name, run, run.samples(limit)) for head, name, run in runs]
    shown = [panel("Real", detail, _img(real, "real images", widest)) for detail, real in reals]
    shown += [_frames(head, name, grids, widest) for head, name, _, grids in sampled if grids]
    steps = sorted({step for *_, grids in sampled for step in grids})
    slider = _slider(steps) if len(steps) > 1 else None
    notes = [
        f"{name}: {len(grids)} of {len(run.grids)} grids, evenly spread.".removeprefix(": ")
        for _, name, run, grids in sampled
        if len(grids) < len(run.grids)
    ]
    note = tag("p", " ".join(notes), class_="muted") if notes else None
    panels = tag("div", *shown, class_="panels pairs level")
    return tag("div", panels, slider, note, class_="gallery")


def _frames(head: object, name: str, grids: Mapping[int, Image.Image], widest: int) -> Html:
    """The grids of a run; without scripts only the last one is shown."""
    last = max(grids)
    frames = [
        tag(
            "div",
            panel(
                head,
                f"at step {count(step)}",
                _img(grid, f"{name} generated images at step {step}".strip(), widest),
            ),
            data_step=step,
            hidden=step != last,
        )
        for step, grid in grids.items()
    ]
    return tag("div", *frames, class_="frames")


def _slider(steps: Sequence[int]) -> Html:
    """The slider that chooses the step; hidden without scripts."""
    top = len(steps) - 1
    slider = tag(
        "input",
        type="range",
        min=0,
        max=top,
        value=top,
        data_steps=" ".join(map(str, steps)),
        aria_label="training step of the generated images",
    )
    shown = tag("output", f"step {count(steps[-1])}")
    return tag("label", tag("span", "Over training"), slider, shown, class_="slider", hidden=True)


def table_by_class(columns: Sequence[tuple[str, ByClass, str]]) -> Html:
    """Images class by class, real images beside generated ones.

    Args:
        columns: a title, the images, and which of them to show: ``real`` or ``generated``.
    """
    names = dict.fromkeys(name for _, images, _ in columns for name in images.names)
    per_row = BESIDE if len(columns) <= 2 else 4
    cells = [tag("div", "Class", class_="name")]
    cells += [tag("div", title) for title, _, _ in columns]
    rows = [tag("div", *cells, class_="head")]
    for name in names:
        cells = [tag("div", name, class_="name")]
        for title, images, side in columns:
            tiles: Sequence[np.ndarray] = ()
            if name in images.names:
                tiles = getattr(images, side)[images.names.index(name)][:per_row]
            cells.append(tag("div", _row(tiles, per_row, f"{name}: {title}"), data_label=title))
        rows.append(tag("div", *cells))
    return tag("div", *rows, class_="byclass", style=f"--columns: {len(columns)}")


def _row(tiles: Sequence[np.ndarray], per_row: int, alt: str) -> Html:
    """Images side by side, each as wide as if the row were full."""
    if not len(tiles):
        return tag("span", "none", class_="muted")
    canvas = np.concatenate([np.pad(tile, ((0, 0), (0, GAP))) for tile in tiles], axis=1)
    picture = Image.fromarray(canvas[:, :-GAP])
    share = f"width: {len(tiles) / per_row * 100:.4g}%"
    return _img(picture, alt, WIDEST // 2 * len(tiles) // per_row, style=share)


def _img(picture: Image.Image, alt: str, widest: int, **attributes: object) -> Html:
    """A picture in the page itself, scaled down where it is too wide."""
    file = io.BytesIO()
    small = picture.copy()
    small.thumbnail((widest, small.height), Image.Resampling.LANCZOS)
    small.save(file, format="PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    # With the size given, the page reserves the area before the picture is decoded.
    size = {"width": small.width, "height": small.height}
    return tag("img", src=source, alt=alt, **size, **attributes)
