"""``xraygan sweep``: a recipe over variants, a grid and seeds, to a table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from xraygan.utils.limits import MOST_PROCESSES

from .options import BoundedInt, SafePath, quiet_option, set_option, utf8


@click.command()
@click.argument("sweep_file", metavar="SWEEP", callback=utf8)
@set_option
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    help="The sweep's folder; runs/sweeps/NAME by default.",
)
@click.option(
    "--jobs",
    type=BoundedInt(1, MOST_PROCESSES),
    default=1,
    show_default=True,
    help="Runs at a time.",
)
@click.option(
    "--preset", default="", metavar="NAME", callback=utf8, help="One of the sweep's presets."
)
@click.option("--fast", is_flag=True, help="The preset fast: it only shows that the sweep runs.")
@click.option(
    "--redo",
    is_flag=True,
    help="Delete the runs in the folder that have another recipe or evaluation than this sweep "
    "asks for, and run exactly these again. Without it the sweep refuses and names them.",
)
@quiet_option
def sweep(
    sweep_file: str,
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int,
    preset: str,
    fast: bool,
    redo: bool,
    quiet: bool,
) -> None:
    """Run every row and seed of SWEEP, a file or the name of a shipped sweep.

    Started again it goes on where it was stopped: what is done is left alone, what was stopped is
    resumed. A run counts only if its recipe is the one that is asked for; if it is not, the sweep
    refuses before any work. It leaves table.md, table.csv, figure.png and the runs themselves.
    """
    from xraygan.sweep import load, run_all, write_tables
    from xraygan.utils.progress import Display
    from xraygan.utils.signals import Interrupted

    display = Display(quiet=quiet)
    preset = "fast" if fast else preset
    loaded = load(sweep_file, overrides, preset)
    folder = out or Path("runs") / "sweeps" / loaded.name
    try:
        runs = run_all(loaded, folder, display, jobs, redo=redo)
    except Interrupted as interrupted:
        display.say(f"xraygan: {interrupted}: what was run is saved; the same command goes on")
        sys.exit(128 + interrupted.number)
    # --jobs belongs to it: it decides how many threads a run has, and so the last bits.
    options = [("--preset", preset), ("--out", str(out or "")), ("--jobs", str(jobs * (jobs > 1)))]
    options = [(name, value) for name, value in options if value not in ("", "0")]
    options += [("--set", override) for override in overrides]
    words = [word for option in options for word in option]
    command = shlex.join(["xraygan", "sweep", sweep_file, *words])
    table = write_tables(loaded, runs, folder, command)
    click.echo(table.read_text(encoding="utf-8"))
    click.echo(table)
    failed = [run for run in runs if run.failure]
    if failed:
        display.say(f"xraygan: {len(failed)} of {len(runs)} runs failed; the table names them")
        sys.exit(2 if all(run.code == 2 for run in failed) else 1)
