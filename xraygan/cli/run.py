"""``xraygan run``: train a recipe, evaluate it, leave a run directory."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .common import print_metrics, recipe_argument, set_option


@click.command()
@recipe_argument
@set_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run directory; runs/NAME by default.",
)
@click.option("--resume", is_flag=True, help="Continue the run in the directory, if there is one.")
def run(recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool) -> None:
    """Train RECIPE, a file or the name of a shipped recipe."""
    from ..display import Display
    from ..engine import Interrupted
    from ..engine import run as train
    from ..recipe import load

    display = Display()
    try:
        place = train(load(recipe, overrides), out, resume=resume, display=display)
    except Interrupted as interrupted:
        display.say(f"xraygan: {interrupted}: the run is saved; continue it with --resume")
        sys.exit(128 + interrupted.number)
    print_metrics(place.evaluation)
    click.echo(f"{place.path}/report.html")
