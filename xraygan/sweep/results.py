"""The results of a sweep: the metrics of each row over its seeds, and differences from a baseline.

They are read from the run directories alone, so a table can be made of the runs that are complete.
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
    """One metric of one row.

    Attributes:
        estimate: its mean over the complete seeds.
        n: number of images that it was measured on.
        notes: notes of the runs about how it was measured.
        own: with a single seed, the interval that its run measured.
    """

    estimate: Estimate
    n: int = 0
    notes: frozenset[str] = frozenset()
    own: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Over seeds and patients; with a single seed over patients alone, or the run's own."""
        return self.estimate.interval or self.estimate.patients or self.own


@dataclass(frozen=True)
class Results:
    """The measurements of one row.

    Attributes:
        files: the complete runs by seed.
        runs: their measurements by seed.
        seconds: their training times.
    """

    row: Row
    cells: dict[str, Cell]
    files: dict[int, RunFiles]
    runs: dict[int, Resampled]
    protocols: list[dict[str, Any]]
    seconds: list[float]


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline, in one metric.

    All but the estimate are None for metrics other than the primary one.

    Attributes:
        estimate: paired by seed.
        adjusted: p, adjusted over all rows by Holm's method.
        detectable: the smallest true difference that would have been found with a power of 80 %.
        needed: the number of seeds that would find the sweep's ``table.difference``; None if no
            number would.
    """

    estimate: Estimate
    adjusted: float | None = None
    detectable: float | None = None
    needed: int | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the adjustment over all rows."""
        return self.adjusted is not None and self.adjusted < LEVEL


Differences = dict[str, dict[str, Difference]]


def collect_results(sweep: Sweep, runs: Sequence[Run]) -> list[Results]:
    """The results of each row, from the runs that are complete."""
    return [_collect_row(sweep, row, [run for run in runs if run.row is row]) for row in sweep.rows]


def _collect_row(sweep: Sweep, row: Row, runs: Sequence[Run]) -> Results:
    done = {run.seed: RunFiles(run.run_dir.path) for run in runs if run.done}
    resampled = {seed: Resampled(files) for seed, files in done.items()}
    cells = {}
    for metric in sweep.table.metrics:
        estimate = mean_over_seeds(resampled, metric)
        measured = [resampled[seed].measured(metric) for seed in estimate.values]
        n = max((entry.get("n") or 0 for entry in measured), default=0)
        own = measured[0].get("interval") if len(measured) == 1 else None
        notes = frozenset(entry.get("note") or "" for entry in measured)
        cells[metric] = Cell(estimate, n, notes, (own[0], own[1]) if own else None)
    return Results(
        row,
        cells,
        done,
        resampled,
        [files.evaluation.get("protocol", {}) for files in done.values()],
        [files.seconds for files in done.values()],
    )


def baseline_differences(sweep: Sweep, results: Sequence[Results]) -> Differences:
    """Each row minus its baseline: row label -> metric -> the difference.

    The p-values of the primary metric are adjusted for the number of rows. Power is at the level of
    the smallest p-value, which Holm's method compares first.
    """
    differences: Differences = {}
    for result in results:
        base = _baseline(sweep, results, result)
        if base is None or base is result:
            continue
        cells = {}
        for metric in sweep.table.metrics:
            pairs = ((result.files[s], base.files[s]) for s in result.files if s in base.files)
            if any(why_not(metric, *pair) for pair in pairs):
                continue  # the table says why
            if (gap := difference(result.runs, base.runs, metric)) is not None:
                cells[metric] = Difference(gap)
        differences[result.row.label] = cells
    return _with_tests(sweep, differences)


def _baseline(sweep: Sweep, results: Sequence[Results], result: Results) -> Results | None:
    """The row that another row is compared with: the baseline, at the same grid point."""
    base = sweep.table.baseline
    for other in results:
        same_point = other.row.variant == base and other.row.point == result.row.point
        if other.row.label == base or same_point:
            return other
    return None


def _with_tests(sweep: Sweep, differences: Differences) -> Differences:
    """The differences with adjusted p-values and power in the primary metric."""
    primary = sweep.table.primary or sweep.table.metrics[0]
    p_values = {
        label: p
        for label, cells in differences.items()
        if primary in cells and (p := cells[primary].estimate.p) is not None
    }
    adjusted = dict(zip(p_values, holm([*p_values.values()]), strict=True))
    tested: Differences = {}
    for label, cells in differences.items():
        tested[label] = dict(cells)
        if label not in adjusted:
            continue
        estimate = cells[primary].estimate
        assert estimate.variance is not None  # it has a p-value
        level = LEVEL / len(p_values)
        tested[label][primary] = Difference(
            estimate,
            adjusted[label],
            estimate.variance.detectable(level),
            estimate.variance.seeds_for(sweep.table.difference, level),
        )
    return tested


def published(sweep: Sweep, label: str) -> Mapping[str, float]:
    """The published figures of a row by metric; NaN for an unpublished one."""
    metrics = sweep.table.metrics
    figures = sweep.table.paper.get(label, [math.nan] * len(metrics))
    return dict(zip(metrics, figures, strict=True))
