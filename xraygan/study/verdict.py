"""The results of a study on test images, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xraygan.errors import UserError
from xraygan.rundir.reader import RunFiles
from xraygan.statistics.paired_bootstrap import Estimate, Resampled, difference, mean_over_seeds
from xraygan.statistics.seed_variance import LEVEL, holm
from xraygan.sweep.plan import Run

from .design import AGAIN, describe_real

#: verdicts of an audit after which a generator is not recommended
LEAKING = ("copies", "leaks")

GAIN, LOSS, NONE_SHOWN = "gain", "loss", "none shown"


@dataclass(frozen=True)
class Outcome:
    """One arm with one number of real images, on test images.

    Attributes:
        estimate: the metric over seeds and test patients.
        gap: the same minus that of real images again, paired by seed; None for that arm itself.
        adjusted: p of the gap, adjusted for the numbers of real images (Holm), for the chosen arm.
        detectable: the smallest true gap that would have been found with a power of 80 %, for the
            chosen arm.
        comparisons: the number of comparisons that ``adjusted`` is adjusted for.
        sign: 1 if more of the metric is better, -1 if less is.
    """

    estimate: Estimate
    gap: Estimate | None = None
    adjusted: float | None = None
    detectable: float | None = None
    comparisons: int = 1
    sign: int = 1

    @property
    def verdict(self) -> str:
        """What the gap shows, at the adjusted level."""
        if self.gap is None or self.adjusted is None or self.adjusted >= LEVEL:
            return NONE_SHOWN
        return GAIN if self.sign * self.gap.value > 0 else LOSS


#: arm -> its outcome, for each number of real images
Outcomes = dict[int | None, dict[str, Outcome]]


def outcomes(
    runs: Sequence[Run], reals: Sequence[int | None], chosen: Mapping[int | None, str], metric: str
) -> Outcomes:
    """The outcomes of all arms.

    Only the chosen arm is tested: one comparison for each number of real images.

    Args:
        runs: all complete.
        chosen: the name of the chosen arm for each number of real images.

    Raises:
        UserError: a run does not have the metric.
    """
    found: Outcomes = {}
    for real in reals:
        arms: dict[str, dict[int, Resampled]] = {}
        for run in runs:
            if run.row.point == describe_real(real):
                files = Resampled(RunFiles(run.run_dir.path))
                if files.value(metric) is None:
                    raise UserError(
                        f"--metric {metric}: {run.run_dir.path} has no such figure; see its "
                        "evaluation.json for those that it has"
                    )
                arms.setdefault(run.row.variant, {})[run.seed] = files
        found[real] = {
            name: Outcome(
                mean_over_seeds(some, metric),
                None if name == AGAIN else difference(some, arms[AGAIN], metric),
                sign=next(iter(some.values())).sign(metric),
            )
            for name, some in arms.items()
        }
    return _tested(found, chosen)


def _tested(found: Outcomes, chosen: Mapping[int | None, str]) -> Outcomes:
    """The outcomes with the adjusted p and the power of the chosen arms."""
    gaps = {real: arms[chosen[real]].gap for real, arms in found.items()}
    p_values = {real: gap.p for real, gap in gaps.items() if gap is not None and gap.p is not None}
    adjusted = dict(zip(p_values, holm([*p_values.values()]), strict=True))
    for real, p in adjusted.items():
        outcome = found[real][chosen[real]]
        gap = gaps[real]
        assert gap is not None and gap.variance is not None  # it has a p
        count = len(p_values)
        detectable = gap.variance.detectable(LEVEL / count)
        found[real][chosen[real]] = replace(
            outcome, adjusted=p, detectable=detectable, comparisons=count
        )
    return found


def sentence(outcome: Outcome, metric: str) -> str:
    """The verdict on the chosen arm of one number of real images, in one line."""
    gap = outcome.gap
    assert gap is not None
    size = f"{gap.value:+.3f}"
    if (interval := gap.interval or gap.patients) is not None:
        size += f" ({interval[0]:+.3f} to {interval[1]:+.3f})"
    less = " (less is better)" if outcome.sign < 0 else ""
    against = f"{size} {metric}{less} against repeated real images"
    if outcome.adjusted is None:
        why = gap.why or "its variance is not known"
        return f"not tested, {why}: {against}"
    p = "p < 0.001" if outcome.adjusted < 0.001 else f"p = {outcome.adjusted:.3f}"
    if outcome.comparisons > 1:  # the interval is not adjusted, so it may be on one side of 0 alone
        p += f" (Holm, {outcome.comparisons} comparisons)"
    if outcome.verdict != NONE_SHOWN:
        return f"{outcome.verdict}: {against}, {p}"
    shown = f"this design could have shown about {outcome.detectable:.3f}"
    return f"no gain shown: {against}, {p}; {shown}"


def recommendation(found: Outcomes, chosen: Mapping[int | None, str], audit: str) -> str:
    """The verdict over all numbers of real images, in one line.

    Args:
        audit: the verdict of the audit.
    """
    verdicts = {real: arms[chosen[real]].verdict for real, arms in found.items()}
    gains = [describe_real(real) for real, verdict in verdicts.items() if verdict == GAIN]
    losses = [describe_real(real) for real, verdict in verdicts.items() if verdict == LOSS]
    shown = []
    if gains:
        shown.append(f"the generated images help with real images: {', '.join(gains)}")
    if losses:
        shown.append(f"they do harm with real images: {', '.join(losses)}")
    result = "; ".join(shown) or "no help is shown"
    if audit in LEAKING:
        kind = "copies of" if audit == "copies" else "traces of"
        return (
            f"NOT RECOMMENDED: the audit found {kind} training images among the generated ones; "
            f"do not share them. Beside that, {result}"
        )
    return result[0].upper() + result[1:]
