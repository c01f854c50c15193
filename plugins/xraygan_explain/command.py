"""The command ``xraygan explain``. Slow modules are imported when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from xraygan.plugin_api import (
    SEED_TYPE,
    BoundedInt,
    SafePath,
    checkpoint_option,
    quiet_option,
    run_argument,
    set_option,
)


@click.command()
@run_argument
@checkpoint_option
@set_option
@click.option(
    "--images",
    "count",
    type=BoundedInt(1, 16),
    default=4,
    show_default=True,
    help="The number of images of each class, and the least number of pairs of latents.",
)
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="Only this class; repeatable."
)
@click.option(
    "--layer",
    metavar="NAME",
    help="The classifier's feature map for Grad-CAM; the last one by default.",
)
@click.option(
    "--seed",
    type=SEED_TYPE,
    default=0,
    show_default=True,
    help="The seed that draws the real images and the latents.",
)
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    help="The folder of the pictures; RUN/explain by default.",
)
@quiet_option
def explain(
    directory: Path,
    which: str,
    overrides: tuple[str, ...],
    count: int,
    classes: tuple[str, ...],
    layer: str | None,
    seed: int,
    out: Path | None,
    quiet: bool,
) -> None:
    """Draw what RUN's networks look at and generate.

    The pictures are: Grad-CAM of the classifier on real test images and on generated images, for
    each class; interpolations between two latents and between two classes; generated images with
    their nearest training images. A picture is left out, with a message, if RUN lacks the network
    or the real images for it. Existing pictures of the same names are replaced.
    """
    from xraygan.plugin_api import Display, restore_session

    from .pictures import Explanation, write

    display = Display(quiet=quiet)
    session, _, _ = restore_session(directory, overrides, display, which, measure=False)
    explanation = Explanation(session, count, classes, layer, seed, display)
    paths, notes = write(explanation, out or directory / "explain")
    for line in (*paths, *notes):
        click.echo(line)
