"""``xraygan verify``: check finished runs and sweeps, as a reviewer."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from xraygan.errors import UserError
from xraygan.utils.limits import MOST_RUNS

from .options import SafePath, quiet_option, utf8

#: exit code if something differs; as of `diff`
DIFFERS = 1


@click.command()
@click.argument("folder", metavar="FOLDER", type=SafePath(file_okay=False))
@click.option(
    "--evaluations",
    default="all",
    show_default=True,
    metavar="all|N",
    callback=utf8,
    help="Repeat the evaluations and audits of all runs, or of N that are drawn at random; 0 for "
    "none.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    callback=utf8,
    metavar="TABLE.KEY=VALUE",
    help="Where the data are and what computes: data.root, data.cache, data.generated.root, "
    "run.device, run.threads.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="How far repeated values may differ, relative to 1 or to the value if it is larger. By "
    "default 0 on the machine of the run. On another one 0.001; if the networks compute in bf16 or "
    "tf32, 0.02 for figures and 0.1 for single images and resamples.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=SafePath(dir_okay=False),
    help="Also write the findings to a new file.",
)
@quiet_option
def verify(
    folder: Path,
    evaluations: str,
    overrides: tuple[str, ...],
    tolerance: float | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Check the runs and tables in FOLDER: a run, a sweep's folder, or any folder above them.

    Compares recipes, seeds, images, checkpoints, logs and figures with what the runs recorded,
    repeats their evaluations and audits in memory, and makes the tables of sweeps again from the
    runs. Prints a line for each thing that holds, differs or was not checked; with --quiet not for
    those that hold. Changes nothing in FOLDER.

    The exit code is 0 if nothing differs and 1 if something does.
    """
    from xraygan.utils.atomic_files import write_json
    from xraygan.utils.progress import Display
    from xraygan.verify.report import Outcome
    from xraygan.verify.verify import Options, verify

    count = _count(evaluations)
    if json_file is not None and json_file.exists():
        raise UserError(f"--json {json_file}: this exists already; name a new file, or remove it")
    if json_file is not None and not json_file.parent.is_dir():
        raise UserError(f"--json {json_file}: there is no folder {json_file.parent}")
    report = verify(folder, Options(count, overrides, tolerance), Display(quiet=quiet))
    for finding in report.findings:
        if not (quiet and finding.outcome == Outcome.HOLDS):
            click.echo(finding.line())
    counts = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in Outcome)
    verdict = "nothing that was checked differs" if report.all_hold else "something differs"
    click.echo(f"{folder}: {verdict} ({counts})")
    if json_file is not None:
        write_json(json_file, report.content())
    if not report.all_hold:
        sys.exit(DIFFERS)


def _count(evaluations: str) -> int | None:
    """How many evaluations to repeat; None for all."""
    if evaluations == "all":
        return None
    if evaluations.isascii() and evaluations.isdecimal() and len(evaluations) < 9:
        return min(int(evaluations), MOST_RUNS)
    raise UserError(f"--evaluations {evaluations}: expected all, or a number of runs")
