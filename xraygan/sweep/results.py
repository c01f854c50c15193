"""What the runs of a sweep measured: each row over its seeds, and its difference from a baseline.

It reads run directories and nothing else, so a table can be made of whatever is done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraygan.report.comparability import why_not
from xraygan.rundir.reader import RunFiles
from xraygan.statistics.paired_bootstrap import Estimate, Resampled, difference, mean_over_seeds
from xraygan.statistics.seed_variance import LEVEL, holm

from .file import Row, Sweep
from .plan import Run


@dataclass(frozen=True)
class Cell:
    """One figure of one row.

    Attributes:
        estimate: its mean over the seeds that are done.
        n: test images that it was measured on.
        notes: what the runs say of how it was measured.
        own: of a single seed, the interval that its run has.
    """

    estimate: Estimate
    n: int = 0
    notes: frozenset[str] = frozenset()
    own: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Over seeds and patients; of a single seed over patients alone, or as its run has it."""
        return self.estimate.interval or self.estimate.patients or self.own


@dataclass(frozen=True)
class Results:
    """What one row's runs measured.

    Attributes:
        files, runs: those that are done, by seed, and what they measured.
    """

    row: Row
    cells: dict[str, Cell]
    files: dict[int, RunFiles]
    runs: dict[int, Resampled]
    protocols: list[dict[str, Any]]
    seconds: list[float]


@dataclass(frozen=True)
class Difference:
    """A row less its baseline, in one metric.

    Attributes:
        estimate: paired by seed.
        adjusted: p, adjusted by Holm over all rows; of the primary metric alone.
        detectable: the smallest true difference that would have been found with a power of 80 %;
            of the primary metric alone.
        needed: how many seeds would find the difference that the sweep asks for, None if no
            number would; of the primary metric alone.
    """

    estimate: Estimate
    adjusted: float | None = None
    detectable: float | None = None
    needed: int | None = None

    @property
    def found(self) -> bool:
        """Whether it is told from 0, all rows counted."""
        return self.adjusted is not None and self.adjusted < LEVEL


Differences = dict[str, dict[str, Difference]]


def gather(sweep: Sweep, runs: Sequence[Run]) -> list[Results]:
    """What each row's runs measured, of the runs that are done."""
    return [_row(sweep, row, [run for run in runs if run.row is row]) for row in sweep.rows]


def _row(sweep: Sweep, row: Row, runs: Sequence[Run]) -> Results:
    done = {run.seed: RunFiles(run.place.path) for run in runs if run.done}
    resampled = {seed: Resampled(files) for seed, files in done.items()}
    cells = {}
    for metric in sweep.table.metrics:
        estimate = mean_over_seeds(resampled, metric)
        found = [resampled[seed].measured(metric) for seed in estimate.values]
        n = max((one.get("n") or 0 for one in found), default=0)
        own = found[0].get("interval") if len(found) == 1 else None
        notes = frozenset(one.get("note") or "" for one in found)
        cells[metric] = Cell(estimate, n, notes, (own[0], own[1]) if own else None)
    return Results(
        row,
        cells,
        done,
        resampled,
        [files.evaluation.get("protocol", {}) for files in done.values()],
        [files.seconds for files in done.values()],
    )


def differences(sweep: Sweep, results: Sequence[Results]) -> Differences:
    """Each row less its baseline: row label -> metric -> the difference.

    The primary metric's p-values are adjusted for the number of rows. Power is at the level of the
    smallest of them, the first that Holm asks for.
    """
    found: Differences = {}
    for one in results:
        against = _baseline(sweep, results, one)
        if against is None or against is one:
            continue
        cells = {}
        for metric in sweep.table.metrics:
            pairs = ((one.files[s], against.files[s]) for s in one.files if s in against.files)
            if any(why_not(metric, *pair) for pair in pairs):
                continue  # the table says why
            if (gap := difference(one.runs, against.runs, metric)) is not None:
                cells[metric] = Difference(gap)
        found[one.row.label] = cells
    return _judged(sweep, found)


def _baseline(sweep: Sweep, results: Sequence[Results], one: Results) -> Results | None:
    """The row that another is compared with: the baseline, at its own point of the grid."""
    base = sweep.table.baseline
    for other in results:
        same_point = other.row.variant == base and other.row.point == one.row.point
        if other.row.label == base or same_point:
            return other
    return None


def _judged(sweep: Sweep, found: Differences) -> Differences:
    primary = sweep.table.primary or sweep.table.metrics[0]
    p_values = {
        label: p
        for label, cells in found.items()
        if primary in cells and (p := cells[primary].estimate.p) is not None
    }
    adjusted = dict(zip(p_values, holm([*p_values.values()]), strict=True))
    judged: Differences = {}
    for label, cells in found.items():
        judged[label] = dict(cells)
        if label not in adjusted:
            continue
        estimate = cells[primary].estimate
        assert estimate.variance is not None  # or there would be no p
        level = LEVEL / len(p_values)
        judged[label][primary] = Difference(
            estimate,
            adjusted[label],
            estimate.variance.detectable(level),
            estimate.variance.seeds_for(sweep.table.difference, level),
        )
    return judged


def published(sweep: Sweep, label: str) -> Mapping[str, float]:
    """The paper's figures of a row, by metric; NaN where there is none."""
    metrics = sweep.table.metrics
    figures = sweep.table.paper.get(label, [math.nan] * len(metrics))
    return dict(zip(metrics, figures, strict=True))
