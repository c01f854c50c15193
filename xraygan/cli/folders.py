"""The options of commands that measure either a run or folders of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from xraygan.errors import UserError

from .options import BoundedInt, SafePath


def folder_option(name: str, help_text: str) -> Any:
    """An option that names a folder of images."""
    return click.option(name, metavar="FOLDER", type=SafePath(), help=help_text)


optional_run_argument = click.argument(
    "directory", metavar="RUN", type=SafePath(file_okay=False), required=False
)
image_size_option = click.option(
    "--image-size",
    type=BoundedInt(16, 1024),
    default=128,
    show_default=True,
    help="With --images: the size in pixels to which all images are resized.",
)


def measures_folders(
    context: click.Context,
    folders: Mapping[str, Path | None],
    with_folders: Sequence[str],
    with_run: Sequence[str],
) -> bool:
    """Whether folders are to be measured, and not a run.

    Args:
        folders: the folders that belong together, by option; --images is the first.
        with_folders: other options that make sense with folders alone.
        with_run: options that make sense with a run alone.

    Raises:
        UserError: the options contradict each other, or one is missing.
    """
    run, command = context.params["directory"], f"xraygan {context.info_name}"
    given = [option for option, folder in folders.items() if folder is not None]
    usage = f"`{command} RUN`, or `{command} {' '.join(f'{name} FOLDER' for name in folders)}`"
    if run is not None and (mixed := [*given, *_given(context, with_folders)]):
        raise UserError(
            f"{mixed[0]}: this measures folders without a run, and RUN {run} is given too; "
            f"use either {usage}"
        )
    if run is not None:
        return False
    if not given:
        extra = _given(context, with_folders)
        fault = f"{extra[0]} needs folders" if extra else "nothing to measure"
        raise UserError(f"{fault}: name a run or folders of images: {usage}")
    if missing := [option for option in folders if option not in given]:
        raise UserError(f"{missing[0]} is missing beside {given[0]}; use {usage}")
    if mixed := _given(context, with_run):
        raise UserError(f"{mixed[0]}: only a run has this, and {given[0]} names a folder; remove "
                        "one of them")  # fmt: skip
    return True


def _given(context: click.Context, options: Sequence[str]) -> list[str]:
    """Those of some options that are on the command line."""
    names = {p.opts[0]: p.name or "" for p in context.command.params}
    return [
        option
        for option in options
        if context.get_parameter_source(names[option]) is not ParameterSource.DEFAULT
    ]


def check_out_file(path: Path | None) -> None:
    """Check, before any work, that a new file can be written.

    Raises:
        UserError: it exists, or its folder does not.
    """
    if path is None:
        return
    if path.exists():
        raise UserError(f"--out {path}: this exists already; name a new file, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}; create it first")
