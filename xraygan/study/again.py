"""The results of a study, made again from its runs: what a reviewer compares with its files.

Nothing is taken from the results themselves. The arms, the seeds and the metric are those that were
asked for, and the rules of :mod:`xraygan.study.choice` choose again among the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from xraygan.errors import UserError
from xraygan.sweep.file import Sweep
from xraygan.sweep.plan import Run, plan
from xraygan.utils.progress import Display

from .choice import Chooser
from .design import AGAIN, Arm, Design, Images, candidate
from .filters import NONE, FilteredImages
from .pool import FILTERED, TABLE, Pool
from .record import Source, of_runs
from .study import tested_arms
from .verdict import outcomes

Object = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """A run that a study should have.

    Attributes:
        sweep: which gives it its recipe.
    """

    sweep: Sweep
    run: Run


@dataclass(frozen=True)
class Again:
    """The results of a study, made again.

    Attributes:
        content: what of ``utility.json`` follows from what is asked for, the runs and the audit.
        planned: all runs that the results need, by their folders.
        tested: those on test images.
    """

    content: Object
    planned: dict[Path, Planned]
    tested: list[Run]


def results_again(design: Design, source: Source, pool: Pool, audit: Object) -> Again:
    """Make the results of a study again.

    Args:
        pool: says which ratios and filters there are enough generated images for.
        audit: the content of ``audit.json``.

    Raises:
        UserError: a run is not complete, or lacks the metric.
    """
    planned: dict[Path, Planned] = {}

    def complete(sweep: Sweep, folder: Path) -> list[Run]:
        runs = plan(sweep, folder)
        planned.update({run.run_dir.path: Planned(sweep, run) for run in runs})
        if lacking := [run.run_dir.path.name for run in runs if not run.done]:
            raise UserError(
                f"{folder.name}/runs: {len(lacking)} of the runs that the results need are "
                f"missing or not complete, {lacking[0]} the first"
            )
        return runs

    filtered = cast("FilteredImages", _Filtered(design.folder))
    choices = Chooser(design, pool, filtered, Display(quiet=True), complete).choose()
    arms = {n: tested_arms(choice, pool, design.options) for n, choice in choices.items()}
    runs = complete(design.sweep(arms, choose=False), design.stage(choose=False))
    chosen = {n: choice.use for n, choice in choices.items()}
    found = outcomes(runs, [*choices], chosen, design.options.metric)
    return Again(of_runs(design, source, audit, choices, found), planned, runs)


@dataclass(frozen=True)
class _Filtered:
    """The tables of filtered images, which are not made again; see :class:`FilteredImages`."""

    folder: Path

    def keep(self, images: Images, real: int | None, *, choose: bool) -> Images:
        # A run's own table has a longer name, which begins with this one.
        table = self.folder / FILTERED / f"{images.filter}-{images.keep:g}.csv"
        return replace(images, table=table)


@dataclass(frozen=True)
class PoolOfRuns(Pool):
    """Which images there are enough for, by the runs of a study: for a reader without its images.

    Attributes:
        design: of the study.
    """

    design: Design

    @classmethod
    def of(cls, design: Design, real: Mapping[int | None, Any] | None = None) -> PoolOfRuns:
        """The pool of a study.

        Args:
            real: the numbers of real images, if they are known; by default those with runs.
        """
        if real is None:
            asked = dict.fromkeys(design.options.real)
            real = {n: None for n in asked if _has_run(design, n, Arm(AGAIN), choose=False)}
        return cls(design.root, design.root / TABLE, cast("Any", None), real, design)

    def suffices(self, real: int | None, ratio: float, kept: float = 1.0) -> bool:
        """Whether a run has chosen among images of this ratio, and of any filter if some are left
        out."""
        design = self.design
        if not _has_run(design, real, Arm(AGAIN), choose=True):  # nothing was chosen
            return kept == 1 and ratio == min(design.options.ratios)
        filters = ("",) if kept == 1 else design.options.filters
        images = (Images(self.table, ratio, name, kept) for name in filters if name != NONE)
        return any(_has_run(design, real, candidate(one), choose=True) for one in images)


def _has_run(design: Design, real: int | None, arm: Arm, *, choose: bool) -> bool:
    sweep = design.sweep({real: [arm]}, choose=choose)
    runs = plan(sweep, design.stage(choose=choose))
    return any(run.run_dir.path.is_dir() or run.recipe.is_file() for run in runs)
