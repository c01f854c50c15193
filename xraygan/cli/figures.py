"""``xraygan figures``: draw the figures of a run for a paper."""

from __future__ import annotations

from pathlib import Path

import click

from .options import BoundedInt, SafePath, run_argument


@click.command()
@run_argument
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    help="The folder of the figures; RUN/figures by default.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "pdf", "svg"]),
    default="png",
    show_default=True,
)
@click.option(
    "--dpi",
    type=BoundedInt(36, 1200),
    default=300,
    show_default=True,
    help="Dots per inch of a PNG, and of the images in a PDF or SVG.",
)
def figures(directory: Path, out: Path | None, kind: str, dpi: int) -> None:
    """Draw figures for a paper from the files of RUN, also while RUN is still training.

    Draws real beside generated images, images over training time, ROC and precision-recall curves,
    the confusion matrix and the losses. Leaves out and names the figures that RUN has no data for.
    Replaces figures of the same names.
    """
    from xraygan.report.paper_figures import write_figures

    paths, notes = write_figures(directory, out, kind, dpi)
    for line in (*paths, *notes):
        click.echo(line)
