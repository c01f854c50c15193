"""``xraygan generate``: write images of a trained generator."""

from __future__ import annotations

from pathlib import Path

import click

from xraygan.utils.limits import MOST

from .options import (
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
@click.option("--count", type=BoundedInt(1, MOST), required=True, help="The number of images.")
@click.option("--class", "class_name", metavar="NAME", help="Write only images of this class.")
@click.option(
    "--metadata",
    "conditions",
    multiple=True,
    metavar="NAME=VALUE",
    help="Metadata to condition on, for generators that take it: age=60, sex=F or view=PA; "
    "repeatable.",
)
@click.option("--seed", type=SEED_TYPE, default=0, show_default=True)
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    required=True,
    help="A new or empty folder.",
)
@quiet_option
def generate(
    directory: Path,
    which: str,
    overrides: tuple[str, ...],
    count: int,
    class_name: str | None,
    conditions: tuple[str, ...],
    seed: int,
    out: Path,
    quiet: bool,
) -> None:
    """Generate images with RUN's generator and write them as PNG files, with a table of them.

    A conditional generator generates the requested class. With an unconditional generator, the
    images that the run's classifier assigns to the class are kept. The training data are not
    needed. Use --set to change keys that the networks do not depend on, for example
    run.device=cpu.
    """
    from xraygan.errors import UserError
    from xraygan.session.sampling import write_images
    from xraygan.session.session import restore_session
    from xraygan.utils.progress import Display

    metadata: dict[str, object] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--metadata: expected NAME=VALUE, found {condition!r}")
        metadata[name] = value
    display = Display(quiet=quiet)
    session, _, step = restore_session(directory, overrides, display, which, measure=False)
    write_images(session, step, count, class_name, seed, out, display, metadata)
    click.echo(f"{count} images in {out}")
