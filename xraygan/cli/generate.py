"""``xraygan generate``: images from a trained run."""

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
@click.option("--count", type=BoundedInt(1, MOST), required=True, help="How many images.")
@click.option("--class", "class_name", metavar="NAME", help="Only images of this class.")
@click.option(
    "--metadata",
    "told",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of a patient with this: age=60, sex=F or view=PA, for generators that are told of it; "
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
    told: tuple[str, ...],
    seed: int,
    out: Path,
    quiet: bool,
) -> None:
    """Write images that RUN's generator makes, as PNG files and a table of them.

    A conditional generator makes the class that is asked for. Of an unconditional one, the images
    are kept that the run's classifier takes for that class. The training data are not needed.
    With --set keys can be changed that networks do not depend on, for example run.device=cpu.
    """
    from xraygan.errors import UserError
    from xraygan.session.sampling import write_images
    from xraygan.session.session import restore_session
    from xraygan.utils.progress import Display

    metadata: dict[str, object] = {}
    for word in told:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--metadata: expected NAME=VALUE, found {word!r}")
        metadata[name] = value
    display = Display(quiet=quiet)
    session, _, step = restore_session(directory, overrides, display, which, measure=False)
    write_images(session, step, count, class_name, seed, out, display, metadata)
    click.echo(f"{count} images in {out}")
