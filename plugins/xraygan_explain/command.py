"""The command; what is slow to import waits until it runs."""

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
    help="How many images of a class, and how many pairs of latents at least.",
)
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="Only this class; repeatable."
)
@click.option(
    "--layer",
    metavar="NAME",
    help="The classifier's feature map that Grad-CAM looks at; its last one by default.",
)
@click.option(
    "--seed",
    type=SEED_TYPE,
    default=0,
    show_default=True,
    help="Which real images and which latents.",
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
    """Draw what RUN's networks look at, make and resemble.

    Grad-CAM of the classifier on real test images and on generated ones, class by class; what lies
    between two latents and between two classes; the nearest training images of generated ones.
    What RUN has no network for, or whose real images are not there, is left out and named.
    Pictures of the same names are replaced.
    """
    from xraygan.plugin_api import Display, restore_session

    from .pictures import Explanation, write

    display = Display(quiet=quiet)
    session, _, _ = restore_session(directory, overrides, display, which, measure=False)
    explanation = Explanation(session, count, classes, layer, seed, display)
    paths, notes = write(explanation, out or directory / "explain")
    for line in (*paths, *notes):
        click.echo(line)
