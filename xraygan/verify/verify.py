"""Verify a run, a sweep, or all runs and sweeps below a folder."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from xraygan.errors import UserError
from xraygan.rundir.directory import RunDirectory
from xraygan.study.design import STAGES
from xraygan.sweep.record import FILE, Recorded
from xraygan.utils.progress import Display

from .audit import check_audit
from .data import check_data
from .evaluation import check_evaluation
from .files import RunContent, check_files
from .places import ASKED, GENERATED_ROOT, STUDY, is_study, of_study, without_generated
from .report import Report
from .study import check_study
from .sweep import check_common, check_recipe, check_runs_exist, read_sweep
from .tables import check_former_table, check_tables

#: keys that ``--set`` may change: where the data are, and what computes
ELSEWHERE_KEYS = ("data.root", "data.cache", GENERATED_ROOT, "run.device", "run.threads")
#: files any of which makes a folder a run directory
_OF_A_RUN = ("recipe.toml", "environment.json", "evaluation.json", "metrics.jsonl")
#: what no check covers
NEVER = (
    "that training gives these networks: only training again shows it",
    "the losses of logs without a digest; report.html, samples/ and run.log, of which no table is "
    "made",
)


@dataclass(frozen=True)
class Options:
    """What to check and how.

    Attributes:
        evaluations: of how many runs, drawn at random, the evaluation is repeated; None for all.
        overrides: where the data are now and the device, as ``--set``.
        tolerance: see :func:`xraygan.verify.evaluation.check_evaluation`.
    """

    evaluations: int | None = None
    overrides: tuple[str, ...] = ()
    tolerance: float | None = None


def verify(folder: Path, options: Options, display: Display) -> Report:
    """Check a run directory, the folder of a sweep, or all of them below a folder.

    Nothing in the folder is written.

    Raises:
        UserError: there is no such folder, it holds no run, or an option is wrong.
    """
    for override in options.overrides:
        if (key := override.partition("=")[0].strip()) not in ELSEWHERE_KEYS:
            raise UserError(
                f"--set {key}: a run is verified with its own recipe; only "
                f"{', '.join(ELSEWHERE_KEYS)} can be set, which say where the data are and what "
                "computes"
            )
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    sweeps, alone = find_runs(folder)
    studies = find_studies(folder)
    if not sweeps and not alone and not studies:
        raise UserError(
            f"{folder}: neither a run directory nor the folder of a sweep or a study, and none is "
            f"below it; expected {', '.join(_OF_A_RUN[:2])}, or runs/ and recipes/, or {ASKED}"
        )
    report = Report(folder)
    found = [(sweep, None if of_study(sweep) else read_sweep(report, sweep)) for sweep in sweeps]
    expected = [(*pair, check_runs_exist(report, *pair)) for pair in found]
    paths = [sweep / "runs" / name for sweep, _, names in expected for name in names]
    repeated = _Repeated(options, display, [*paths, *alone])
    for sweep, recorded, names in expected:
        _verify_sweep(report, sweep, recorded, names, repeated)
    for study in studies:
        check_study(report, study, options.overrides, display, options.tolerance,
                    audit=options.evaluations != 0)  # fmt: skip
    for path in alone:
        repeated.check(report, check_files(report, RunDirectory(path)))
    for text in NEVER:
        report.unchecked(folder, text)
    return report


def find_runs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sweeps in or below a folder, and the run directories that belong to none of them.

    The runs of a study are those of two sweeps, also where parts of these are missing.
    """
    sweeps, runs = [], []
    for path, folders, files in os.walk(folder):
        place = Path(path)
        if is_study(place):
            parts = [name for name in STAGES if name in folders]
            sweeps += [place / name for name in parts]
            folders[:] = sorted({*folders}.difference(parts))
            continue
        if is_sweep(place) or of_study(place):
            sweeps.append(place)
        elif any(name in files for name in _OF_A_RUN):
            runs.append(place)
        else:
            folders.sort()
            continue
        folders.clear()
    return sweeps, runs


def find_studies(folder: Path) -> list[Path]:
    """The utility studies in or below a folder; their runs are found as those of sweeps."""
    found = {path.parent for name in (STUDY, ASKED) for path in folder.rglob(name)}
    return sorted(filter(is_study, found))


def is_sweep(folder: Path) -> bool:
    """Whether a folder is one that ``xraygan sweep`` writes."""
    written = (folder / FILE).is_file() or (folder / "recipes").is_dir()
    return written and (folder / "runs").is_dir()


def _verify_sweep(
    report: Report, folder: Path, recorded: Recorded | None, names: list[str], repeated: _Repeated
) -> None:
    """Check the runs of a sweep, what they have in common, and the tables.

    Args:
        names: the names of the runs that there are.
    """
    runs: list[RunContent] = []
    for name in names:
        run_dir = RunDirectory(folder / "runs" / name)
        repeated.display.say(f"checking {report.name(run_dir.path)}")
        run = check_files(report, run_dir)
        check_recipe(report, folder, run_dir)
        repeated.check(report, run)
        runs.append(run)
    check_common(report, folder, runs)
    if recorded is not None:
        check_tables(report, folder, recorded)
    elif not of_study(folder) and not (folder / FILE).exists():
        check_former_table(report, folder)


class _Repeated:
    """Checks the data of runs, and repeats the evaluation of all or some of them.

    Args:
        runs: the folders of all runs.
    """

    def __init__(self, options: Options, display: Display, runs: list[Path]) -> None:
        self.options = options
        self.display = display
        count = len(runs) if options.evaluations is None else min(options.evaluations, len(runs))
        # Whoever made the runs cannot know which of them will be drawn.
        self._drawn = {*random.SystemRandom().sample(runs, count)}

    def check(self, report: Report, run: RunContent) -> None:
        """Check the data of a run, and its evaluation if it was drawn."""
        if not run.recipe:
            report.unchecked(run.run_dir.path, "the images and the evaluation: it has no recipe")
            return
        options, display = self.options, self.display
        place = run.run_dir
        same = check_data(report, run, options.overrides, display)
        repeated = [path for path in (place.evaluation, place.audit) if path.is_file()]
        if place.path not in self._drawn:
            reason = ", as --evaluations asks"
        elif not same:
            reason = ": it needs the images that the run recorded"
        else:
            overrides = without_generated(options.overrides)
            check_evaluation(report, run, overrides, display, options.tolerance)
            check_audit(report, run, overrides, display, options.tolerance)
            return
        for path in repeated:
            report.unchecked(path, f"not measured again{reason}")
