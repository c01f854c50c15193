"""Choose on validation images how generated images are used: how many, which, and in which order.

The ratio is chosen first, without a filter; then a filter at that ratio; then whether generated
images come beside or before the real ones. The runs that choose have other seeds than those that
are tested: among arms that differ by chance alone, the one with the luckiest runs would otherwise
be lucky on the test images too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xraygan.errors import UserError
from xraygan.rundir.reader import RunFiles
from xraygan.statistics.paired_bootstrap import Estimate, Resampled, difference
from xraygan.sweep.file import Sweep
from xraygan.sweep.plan import Run
from xraygan.utils.progress import Display

from .design import (
    AGAIN,
    BEFORE,
    MIXED,
    Arm,
    Design,
    Images,
    candidate,
    describe_real,
)  # fmt: skip
from .filters import NONE, FilteredImages
from .pool import Pool

#: executes the runs of a sweep that are not complete, below a folder, and returns all of them
Execute = Callable[[Sweep, Path], list[Run]]

#: what arms are compared by: arm -> seed -> the run
Measured = dict[str, dict[int, Resampled]]


@dataclass
class Choice:
    """What was chosen for one number of real images.

    Attributes:
        mixed: the chosen arm with real and generated images together.
        before: the arm with generated images first.
        use: the name of the arm that is expected to be best: that of ``mixed`` or of ``before``.
        tried: the difference of each candidate from real images again, on validation images; empty
            if there was one candidate.
    """

    mixed: Arm
    before: Arm
    use: str
    tried: dict[str, Estimate] = field(default_factory=dict)


class Chooser:
    """The choices of a study, each stage for all numbers of real images at once."""

    def __init__(
        self,
        design: Design,
        pool: Pool,
        filtered: FilteredImages,
        display: Display,
        execute: Execute,
    ) -> None:
        self.design, self.pool, self.filtered = design, pool, filtered
        self.display, self.execute = display, execute
        self._measured: dict[int | None, Measured] = {}

    def choose(self) -> dict[int | None, Choice]:
        """The choice for each number of real images.

        Raises:
            UserError: there are too few generated images for every ratio, or a run failed.
        """
        options = self.design.options
        ratios = {
            real: [r for r in options.ratios if self.pool.suffices(real, r)]
            for real in self.pool.real
        }
        for real, some in ratios.items():
            if not some:
                raise UserError(
                    f"--ratios: {describe_real(real)}: there are too few generated images for the "
                    f"smallest ratio, {min(options.ratios):g}; name a smaller one, or add images"
                )
            for ratio in sorted({*options.ratios} - {*some}):
                self.display.say(
                    f"{describe_real(real)}: ratio {ratio:g} is left out, since there are too few "
                    "generated images"
                )
        plain = {
            real: [candidate(Images(self.pool.table, ratio)) for ratio in some]
            for real, some in ratios.items()
        }
        if options.filters == (NONE,) and all(len(arms) == 1 for arms in plain.values()):
            return {real: self._choice(real, arms[0]) for real, arms in plain.items()}
        self._run({real: [Arm(AGAIN), *arms] for real, arms in plain.items()})
        best = {real: self._best(real, arms) for real, arms in plain.items()}
        filtered = {real: self._filtered(real, arm) for real, arm in best.items()}
        self._run(filtered)
        best = {real: self._best(real, arms) for real, arms in filtered.items()}
        if "before" in options.arms:
            self._run({real: [self._before(real)] for real in best})
        return {real: self._choice(real, arm) for real, arm in best.items()}

    def _run(self, arms: Mapping[int | None, Sequence[Arm]]) -> None:
        """Run some arms and read what they measured on validation images."""
        sweep = self.design.sweep(arms, choose=True)
        runs = self.execute(sweep, self.design.stage(choose=True))
        require_done(runs)
        for real in arms:
            point = describe_real(real)
            for run in runs:
                if run.row.point == point:
                    measured = self._measured.setdefault(real, {}).setdefault(run.row.variant, {})
                    measured[run.seed] = Resampled(RunFiles(run.run_dir.path))

    def _value(self, real: int | None, arm: Arm) -> float:
        """The mean of the metric over the runs of an arm, on validation images; its negative where
        less is better."""
        metric = self.design.options.metric
        runs = self._measured[real][arm.name].values()
        values = [run.value(metric) for run in runs]
        if any(value is None for value in values):
            raise UserError(
                f"--metric {metric}: a run of {arm.name!r} has no such figure on validation "
                "images; see its evaluation.json for those that it has"
            )
        sign = next(iter(runs)).sign(metric)
        return sign * float(np.mean([value for value in values if value is not None]))

    def _best(self, real: int | None, arms: Sequence[Arm]) -> Arm:
        """The arm with the best mean; of equal ones the first."""
        return max(arms, key=lambda arm: self._value(real, arm))

    def _before(self, real: int | None) -> Arm:
        """The arm that learns from as many generated images as there are first."""
        ratio = self.pool.largest(real, self.design.options.ratios)
        assert ratio is not None  # choose() has checked it
        return Arm(BEFORE, Images(self.pool.table, ratio), "before")

    def _filtered(self, real: int | None, arm: Arm) -> list[Arm]:
        """An arm with each filter and share of kept images, where enough images are kept.

        Raises:
            UserError: no filter keeps enough images.
        """
        assert arm.images is not None
        filters = self.design.options.filters
        arms = [] if NONE not in filters else [arm]
        for name in filters:
            if name == NONE:
                continue
            for keep in self.design.options.keep:
                images = replace(arm.images, filter=name, keep=keep)
                if not self.pool.suffices(real, images.ratio, keep):
                    self.display.say(
                        f"{describe_real(real)}: the filter {images.filtered} is left out, since "
                        "it keeps too few generated images"
                    )
                    continue
                arms.append(candidate(self.filtered.keep(images, real, choose=True)))
        if not arms:
            raise UserError(
                f"--filters: {describe_real(real)}: every filter keeps too few generated images "
                f"for the chosen ratio, {arm.images.ratio:g}; add none to --filters, or add images"
            )
        return arms

    def _choice(self, real: int | None, mixed: Arm) -> Choice:
        """The choice with the best arm of real and generated images together."""
        before, measured = self._before(real), self._measured.get(real, {})
        arm = Arm(MIXED, mixed.images)
        if not measured:
            return Choice(arm, before, MIXED)
        candidates = [mixed, *([before] if BEFORE in measured else [])]
        use = MIXED if self._best(real, candidates) is mixed else BEFORE
        tried = {
            name: gap
            for name, runs in measured.items()
            if name != AGAIN
            and (gap := difference(runs, measured[AGAIN], self.design.options.metric))
        }
        return Choice(arm, before, use, tried)


def require_done(runs: Sequence[Run]) -> None:
    """Check that all runs are complete.

    Raises:
        UserError: it names the first that failed.
    """
    failed = [run for run in runs if not run.done]
    if failed:
        first = failed[0]
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed, {first.row.label!r} with seed {first.seed} "
            f"the first: {first.failure or 'it is not complete'}; see {first.log}. The complete "
            "runs are kept: mend the cause and give the same command again"
        )
