"""The command; what is slow to import waits until it runs."""

from __future__ import annotations

from pathlib import Path

import click

from xraygan.plugin_api import (
    SafePath,
    checkpoint_option,
    quiet_option,
    run_argument,
    set_option,
)

FORMATS = ("onnx", "torch", "safetensors")


@click.command()
@run_argument
@checkpoint_option
@set_option
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice([*FORMATS, "all"]),
    default=("all",),
    show_default=True,
    help="Which files; repeatable.",
)
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    help="A new or empty folder; RUN/export by default.",
)
@quiet_option
def export(
    directory: Path,
    which: str,
    overrides: tuple[str, ...],
    formats: tuple[str, ...],
    out: Path | None,
    quiet: bool,
) -> None:
    """Write RUN's generator and classifier as files for other programs.

    ONNX (with pip install 'xraygan[onnx]'), torch.export and safetensors, for batches of any size,
    and README.md, a model card with what they are, what was measured, their limits, and code that
    loads each file. Where an average of a network is kept, that is written. Nothing is written
    over.
    """
    from xraygan.plugin_api import Display, RunDirectory, restore_session

    from .writing import refuse_early, write

    wanted = FORMATS if "all" in formats else tuple(dict.fromkeys(formats))
    out = out or directory / "export"
    RunDirectory.open(directory)
    refuse_early(wanted, out)
    display = Display(quiet=quiet)
    session, run_dir, step = restore_session(directory, overrides, display, which, measure=False)
    for path in write(session, run_dir, step, wanted, out):
        click.echo(path)
