"""``xraygan report``: write the report of a run, or the comparison of several runs, as one page."""

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
    help="The page to write; by default RUN/report.html for one run, comparison.html for several. "
    "A page of this command is replaced; any other existing file is an error.",
)
def report(directories: tuple[Path, ...], out: Path | None) -> None:
    """Write the report of RUN again, or one page that compares several runs.

    Reads only the files of the runs, also of runs that are still training or were interrupted. The
    page needs no network connection. It names the data that a run lacks, and the files that cannot
    be read; if there are any of these, the exit code is 2.
    """
    from xraygan.report.comparison import comparison, open_runs
    from xraygan.report.html import write_page
    from xraygan.report.run_report import report as report_of

    runs = open_runs(directories)
    single = len(runs) == 1
    default = directories[0] / "report.html" if single else Path("comparison.html")
    page = report_of(runs[0]) if single else comparison(runs)
    path = write_page(out or default, page, overwrite=single and not out)
    click.echo(path)
    if damaged := [f"  {run.directory}/{file}" for run in runs for file in run.damaged]:
        raise UserError("\n".join(["the page was written without these files:", *damaged]))
