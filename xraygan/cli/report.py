"""``xraygan report``: a run, or several beside each other, as one page."""

from __future__ import annotations

from pathlib import Path

import click

from xraygan.errors import UserError

from .options import SafePath


@click.command()
@click.argument(
    "directories",
    metavar="RUN [RUN ...]",
    nargs=-1,
    required=True,
    type=SafePath(file_okay=False),
)
@click.option(
    "--out",
    type=SafePath(),
    metavar="FILE",
    help="The page; RUN/report.html of one run, comparison.html of several by default. "
    "A page of this command is replaced, any other file is left alone and an error.",
)
def report(directories: tuple[Path, ...], out: Path | None) -> None:
    """Write the page of RUN anew, or one page that compares several.

    It reads the files of the runs alone, also while they go on or after they were interrupted, and
    needs no network to be looked at. What a run has no data for is named on the page. So are files
    that cannot be read; the exit code is then 2.
    """
    from xraygan.report.comparison import comparison, open_runs
    from xraygan.report.html import write_page
    from xraygan.report.run_report import report as report_of

    runs = open_runs(directories)
    own = directories[0] / "report.html" if len(runs) == 1 else None
    page = comparison(runs) if len(runs) > 1 else report_of(runs[0])
    path = write_page(out or own or Path("comparison.html"), page, ours=own is not None and not out)
    click.echo(path)
    if damaged := [f"  {run.directory}/{what}" for run in runs for what in run.damaged]:
        raise UserError("\n".join(["the page is written without these files:", *damaged]))
