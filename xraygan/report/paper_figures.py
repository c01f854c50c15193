"""Figures for a paper, from the files of a run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from xraygan.errors import UserError
from xraygan.rundir.completion import missing_results
from xraygan.rundir.reader import Lacking, Predictions, RunFiles
from xraygan.utils.atomic_files import write_together

from .html import count
from .plots import (
    COLOURS,
    FIGURE_STYLE,
    GREY,
    axes_in_inches,
    draw_mosaic,
    draw_precision_recall,
    draw_roc,
    draw_series,
    figure_bytes,
)

LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.2, 1.2)))

# In inches: a journal's column is about 3.4 wide, its page about 7.
SQUARE = 2.8
IMAGE = 0.76
TALLEST = 8.5

BESIDE = 4  # real and generated images in a row each, and rows if the classes are unknown
MOMENTS = 8  # columns of the figure over training time
LATENTS = 6  # rows of the figure over training time

PAPER: Any = FIGURE_STYLE | {
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "pdf.fonttype": 42,  # TrueType fonts: journals refuse the default, Type 3
}

Note = Callable[[str], None]


def write_figures(
    run_directory: Path, out: Path | None = None, kind: str = "png", dpi: int = 300
) -> tuple[list[Path], list[str]]:
    """Draw every figure of :data:`FIGURES` that the run has the data for.

    The same run gives the same bytes. No file is written before all figures are drawn.

    Args:
        run_directory: a run, which may still be training.
        out: the folder of the figures; ``figures`` in the run directory by default.
        kind: ``png``, ``pdf`` or ``svg``.
        dpi: dots per inch of a PNG, and of the images in a PDF or SVG.

    Returns:
        The files, and notes about figures that were left out and why.

    Raises:
        UserError: it is not a run directory, or the folder cannot be written.
    """
    run = RunFiles.open(run_directory)
    drawn: dict[str, bytes] = {}
    lacks = missing_results(run_directory)
    notes = [f"the run is not finished: it lacks {', '.join(lacks)}"] if lacks else []
    for name, draw in FIGURES.items():

        def add_note(text: str, name: str = name) -> None:
            notes.append(" ".join(f"{name}: {text}".split()))  # on one line

        # The user's own settings of matplotlib are ignored; ids in an SVG are salted hashes.
        with style.context(["default", PAPER]), matplotlib.rc_context({"svg.hashsalt": name}):
            try:
                figure = draw(run, add_note)
            except Lacking as lacking:
                add_note(f"left out: {lacking}")
                continue
            options: Any = {"bbox_inches": "tight", "pad_inches": 0.02}
            drawn[f"{name}.{kind}"] = figure_bytes(figure, kind, dpi, **options)
    out = out or run_directory / "figures"
    try:
        if drawn:
            out.mkdir(parents=True, exist_ok=True)
        write_together({out / name: content for name, content in drawn.items()})
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    return [out / name for name in drawn], notes


# -- images ----------------------------------------------------------------------------------------


def real_and_generated(run: RunFiles, note: Note) -> Figure:
    """Real images beside the newest generated images, one row for each class if it is known."""
    if not run.has("generator"):
        raise Lacking("the run has no generator")
    if run.real is None:
        raise Lacking(run.why_no("samples/real.png"))
    step, newest = run.last_samples()
    both = [run.tiles(run.real), run.tiles(newest)]
    titles = ["real", f"generated, step {count(step)}"]
    try:
        names, *rows, source = run.by_class(step, BESIDE)
        titles[1] += {"p": ", classes as the classifier predicts them"}.get(source, "")
    except Lacking as lacking:
        note(f"not by class: {lacking}")
        names = [""] * BESIDE
        rows = [[images[i * BESIDE :][:BESIDE] for i in range(BESIDE)] for images in both]
    size = min(IMAGE, TALLEST / len(names))
    offset = BESIDE + 0.3
    figure = Figure(figsize=((offset + BESIDE) * size, len(names) * size))
    for i, (cells, title) in enumerate(zip(rows, titles, strict=True)):
        axes = axes_in_inches(figure, i * offset * size, 0, BESIDE * size, len(names) * size)
        draw_mosaic(axes, cells, BESIDE, both[i].shape[1])
        axes.set_title(title)
        if not i:
            axes.set_yticks(axes.get_yticks(), names)
    return figure


def training_time(run: RunFiles, note: Note) -> Figure:
    """Images of the same latents over training: a row for each latent, a column for each step."""
    if not run.has("generator"):
        raise Lacking("the run has no generator")
    if not run.grids:
        raise Lacking(run.why_no("samples/step-"))
    grids = {step: run.tiles(picture) for step, picture in run.samples(MOMENTS).items()}
    if len(grids) < 2:
        raise Lacking("there is only one sample grid that can be read")
    height = min(LATENTS, *(len(tiles) for tiles in grids.values()))
    rows = [[tiles[latent] for tiles in grids.values()] for latent in range(height)]
    figure = Figure(figsize=(len(grids) * IMAGE, height * IMAGE))
    axes = axes_in_inches(figure, 0, 0, *figure.get_size_inches())
    draw_mosaic(axes, rows, len(grids), rows[0][0].shape[0])
    axes.set_xticks(axes.get_xticks(), [count(step) for step in grids])
    axes.tick_params(labeltop=True)
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="training step", ylabel="one latent vector per row")
    return figure


# -- the classifier --------------------------------------------------------------------------------


def roc(run: RunFiles, note: Note) -> Figure:
    """Each class against the rest: the ROC curve, and the area under it."""
    figure, axes = _square()
    for i, (name, truth, probs) in enumerate(_curves(run, note)):
        area = roc_auc_score(truth, probs)
        draw_roc(axes, truth, probs, label=f"{area:.3f}  {name}", **_line(i))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, zorder=1, label="0.500  chance")
    _legend(axes, "AUC, class against the rest")
    return figure


def precision_recall(run: RunFiles, note: Note) -> Figure:
    """Each class against the rest: precision over recall, and the average precision."""
    figure, axes = _square()
    for i, (name, truth, probs) in enumerate(_curves(run, note)):
        area = average_precision_score(truth, probs)
        draw_precision_recall(axes, truth, probs, label=f"{area:.3f}  {name}", **_line(i))
        axes.plot([0, 1], [truth.mean()] * 2, **_line(i) | {"linewidth": 0.5}, zorder=1)
    axes.plot([], [], color=GREY, linewidth=0.5, label="thin: chance")
    _legend(axes, "AP, class against the rest")
    return figure


def confusion_matrix(run: RunFiles, note: Note) -> Figure:
    """True class against most probable class: images, and their share of the row."""
    names = [name for name, _, _ in _predictions(run)]
    counts = run.confusion()
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    k = len(names)
    cell = min(0.72, 2.5 / k) if k <= 6 else min(0.5, 6 / k)  # in a column, or across the page
    figure = Figure(figsize=(cell * k, cell * k))
    axes = axes_in_inches(figure, 0, 0, *figure.get_size_inches())
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (y, x), images in np.ndenumerate(counts):
        text = count(int(images)) + (f"\n{shares[y, x] * 100:.0f} %" if totals[y, 0] else "")
        colour = "white" if shares[y, x] > 0.55 else "black"
        size = 7 if cell > 0.5 else 6
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=size)
    ticks = range(k)
    axes.set_yticks(ticks, names)
    wide = max(map(len, names)) * 0.075 > cell
    turned: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if wide else {}
    axes.set_xticks(ticks, names, **turned)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title("images, and their share of the true class", fontsize=7)
    return figure


def _predictions(run: RunFiles) -> Predictions:
    if not run.has("classifier"):
        raise Lacking("the run has no classifier")
    if run.predictions is None:
        raise Lacking(run.why_no("predictions.csv"))
    if not run.predictions:
        raise Lacking("predictions.csv has no class")
    return run.predictions


def _curves(run: RunFiles, note: Note) -> Predictions:
    _predictions(run)
    drawable, reasons = run.curves()
    without = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
    if not drawable:
        raise Lacking(f"no class has a curve: {without}")
    if reasons:
        note(f"without {without}")
    return drawable


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SQUARE, SQUARE))
    return figure, axes_in_inches(figure, 0, 0, SQUARE, SQUARE)


def _line(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th curve; 28 curves differ."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def _legend(axes: Axes, title: str) -> None:
    """Draw a legend under the axes, so that it hides no curve."""
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    columns = 1 + (len(axes.get_legend_handles_labels()[1]) > 3)
    position: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": columns}
    axes.legend(title=title, **position)


# -- training --------------------------------------------------------------------------------------


def losses(run: RunFiles, note: Note) -> Figure:
    """Each term over training, without its weight: means of neighbouring steps and their range."""
    terms = run.series(lambda line: line.get("terms"))
    known = {name: term for name, term in terms.items() if np.isfinite(term[1]).any()}
    if not known:
        raise Lacking("metrics.jsonl has no term" if run.lines else run.why_no("metrics.jsonl"))
    if empty := [name for name in terms if name not in known]:
        note(f"without {', '.join(empty)}, which never had a value")
    unit = 1000 if max(steps[-1] for steps, _ in known.values()) >= 10_000 else 1
    columns = min(3, len(known))
    rows = -(-len(known) // columns)
    figure = Figure(figsize=(0.2 + 2.27 * columns, 0.2 + 1.45 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, (name, (steps, values)) in zip(grid.flat, known.items(), strict=False):
        draw_series(axes, steps / unit, values, color=COLOURS[0])
        axes.set_title(name)
        axes.tick_params(labelbottom=True)
    for spare in grid.flat[len(known) :]:
        spare.set_visible(False)
    figure.supxlabel("training step" + (" (thousands)" if unit > 1 else ""), fontsize=8)
    figure.supylabel("term without its weight", fontsize=8)
    return figure


FIGURES: dict[str, Callable[[RunFiles, Note], Figure]] = {
    "real_and_generated": real_and_generated,
    "training_time": training_time,
    "roc": roc,
    "precision_recall": precision_recall,
    "confusion_matrix": confusion_matrix,
    "losses": losses,
}
