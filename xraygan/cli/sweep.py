"""``xraygan sweep``: run a recipe over variants, a grid and seeds, and write a table."""

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
    help="Number of parallel runs.",
)
@click.option(
    "--preset", default="", metavar="NAME", callback=utf8, help="One of the sweep's presets."
)
@click.option(
    "--fast", is_flag=True, help="Use the preset fast, which only shows that the sweep works."
)
@click.option(
    "--redo",
    is_flag=True,
    help="Delete the runs in the folder whose recipe or evaluation differs from this sweep's, and "
    "run them again. Without this option the sweep stops with an error that names them.",
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

    Run the same command again to continue an interrupted sweep: complete runs are kept, and
    interrupted runs are resumed. If a run in the folder has another recipe, the sweep stops with an
    error before any work. Writes table.md, table.csv, table.tex, figure.png,
    sweep.json (all that the tables are made of) and the runs themselves.
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
        display.say(f"xraygan: {interrupted}: the runs are saved; continue with the same command")
        sys.exit(128 + interrupted.number)
    # The table's command includes --jobs: it sets the threads of a run, and so its last bits.
    options = [("--preset", preset), ("--out", str(out or "")), ("--jobs", str(jobs * (jobs > 1)))]
    options = [(name, value) for name, value in options if value not in ("", "0")]
    options += [("--set", override) for override in overrides]
    arguments = [argument for option in options for argument in option]
    command = shlex.join(["xraygan", "sweep", sweep_file, *arguments])
    table = write_tables(loaded, runs, folder, command)
    click.echo(table.read_text(encoding="utf-8"))
    click.echo(table)
    failed = [run for run in runs if run.failure]
    if failed:
        display.say(f"xraygan: {len(failed)} of {len(runs)} runs failed; the table names them")
        sys.exit(2 if all(run.code == 2 for run in failed) else 1)
