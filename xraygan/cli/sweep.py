"""``xraygan sweep``: a recipe over variants, a grid and seeds, to a table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from .common import quiet_option, set_option


@click.command()
@click.argument("sweep_file", metavar="SWEEP")
@set_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The sweep's folder; runs/sweeps/NAME by default.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time."
)
@click.option("--preset", default="", metavar="NAME", help="One of the sweep's presets.")
@click.option("--fast", is_flag=True, help="The preset fast: it only shows that the sweep runs.")
@quiet_option
def sweep(
    sweep_file: str,
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int,
    preset: str,
    fast: bool,
    quiet: bool,
) -> None:
    """Run every row and seed of SWEEP, a file or the name of a shipped sweep.

    Started again it goes on where it was stopped: what is done is left alone, what was stopped is
    resumed. It leaves table.md, table.csv, figure.png and the runs themselves.
    """
    from ..display import Display
    from ..signals import Interrupted
    from ..sweep import load, run_all, write_tables

    display = Display(quiet=quiet)
    preset = "fast" if fast else preset
    loaded = load(sweep_file, overrides, preset)
    out = out or Path("runs") / "sweeps" / loaded.name
    try:
        runs = run_all(loaded, out, display, jobs)
    except Interrupted as interrupted:
        display.say(f"xraygan: {interrupted}: what was run is saved; the same command goes on")
        sys.exit(128 + interrupted.number)
    sets = [word for override in overrides for word in ("--set", override)]
    command = shlex.join(
        ["xraygan", "sweep", sweep_file, *(["--preset", preset] if preset else []), *sets]
    )
    table = write_tables(loaded, runs, out, command)
    click.echo(table.read_text(encoding="utf-8"))
    click.echo(table)
    failed = [run for run in runs if run.failure]
    if failed:
        display.say(f"xraygan: {len(failed)} of {len(runs)} runs failed; the table names them")
        sys.exit(2 if all(run.code == 2 for run in failed) else 1)
