"""The command ``xraygan export``. Slow modules are imported when it runs."""

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
    help="The formats to write; repeatable.",
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

    The formats are ONNX (with pip install 'xraygan[onnx]'), torch.export and safetensors, for
    batches of any size. README.md is a model card: it describes the networks, their metrics and
    limits, and has code that loads each file. If a network has an average of its weights (EMA), the
    average is exported. No existing file is overwritten.
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
