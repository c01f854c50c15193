"""Runs of one recipe that differ in their seed alone, taken as one system; systems compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from xraygan.rundir.reader import Object, RunFiles
from xraygan.statistics.paired_bootstrap import Estimate, Resampled, difference
from xraygan.statistics.seed_variance import LEVEL, holm

from .comparability import why_not
from .html import NONE, Html, join, number, table, tag

#: keys of a recipe in which the runs of one system differ
OF_A_SEED = {"run": ("seed", "name")}

Comparisons = dict[tuple[int, str], Estimate]


@dataclass
class System:
    """Runs that differ in their seed alone.

    Attributes:
        name: the first run's.
        files, runs: the runs by seed, and what they measured; of two with one seed, the first.
    """

    name: str
    files: dict[int, RunFiles] = field(default_factory=dict)

    @cached_property
    def runs(self) -> dict[int, Resampled]:
        return {seed: Resampled(run) for seed, run in self.files.items()}

    def compares(self, base: System, metric: str) -> bool:
        """Whether a metric means the same in both systems."""
        pairs = ((run, base.files[seed]) for seed, run in self.files.items() if seed in base.files)
        return not any(why_not(metric, *pair) for pair in pairs)

    @property
    def title(self) -> str:
        seeds = ", ".join(map(str, self.files))
        return f"{self.name} (seed{'s' * (len(self.files) > 1)} {seeds})"


def systems(runs: Sequence[tuple[str, RunFiles]]) -> list[System]:
    """The systems of named runs, by their first runs; a run without a recipe is of none."""
    found: dict[str, System] = {}
    for name, run in runs:
        if not run.recipe_text:
            continue
        seed = run.recipe.get("run", {}).get("seed", 0)
        system = found.setdefault(_without_seed(run.recipe), System(name))
        system.files.setdefault(seed, run)
    return list(found.values())


def _without_seed(recipe: Object) -> str:
    rest = {
        name: {key: value for key, value in keys.items() if key not in OF_A_SEED.get(name, ())}
        if isinstance(keys, Mapping)
        else keys
        for name, keys in recipe.items()
    }
    return json.dumps(rest, sort_keys=True, default=str)


def over_seeds(runs: Sequence[tuple[str, RunFiles]], metrics: Sequence[str]) -> Html | None:
    """Differences from the first system over training seeds and test patients.

    None where no two systems share two seeds: training cannot be spoken of then.
    """
    base, *others = systems(runs) or [System("")]
    found: Comparisons = {}
    for i, other in enumerate(others):
        for name in metrics:
            if not other.compares(base, name):
                continue
            gap = difference(other.runs, base.runs, name)
            if gap is not None and gap.interval is not None:
                found[i, name] = gap
    if not found:
        return None
    p_values = [gap.p if gap.p is not None else 1.0 for gap in found.values()]
    adjusted = dict(zip(found, holm(p_values), strict=True))
    shown = sorted({i for i, _ in found})
    rows = [
        (tag("code", name), *(_cell(found, adjusted, (i, name)) for i in shown))
        for name in metrics
        if any((i, name) in found for i in shown)
    ]
    without = dict.fromkeys(name for (_, name), gap in found.items() if not gap.patients)
    alone = f" (of {', '.join(without)}: over training seeds alone)" if without else ""
    says = (
        f"Difference from {base.title}, paired by seed, with a 95 % interval over training seeds "
        f"and patients{alone}. p is adjusted for how many are shown, {len(found)} (Holm); a p "
        f"below {LEVEL:g} is marked."
    )
    heads = ["Metric", *(others[i].title for i in shown)]
    return join(
        [tag("h3", "Over training seeds"), tag("p", says), table(heads, rows, style="wide")]
    )


def _cell(
    found: Comparisons, adjusted: Mapping[tuple[int, str], float], at: tuple[int, str]
) -> Html:
    if at not in found:
        return tag("span", NONE)
    gap, p = found[at], adjusted[at]
    low, high = gap.interval or (gap.value, gap.value)
    says = f"{signed(gap.value)} ({signed(low)} to {signed(high)}), p "
    says += "<0.001" if p < 0.001 else f"{p:.3f}"
    shown = tag("span", f"{says}, {len(gap.values)} seeds")
    return tag("mark", shown) if p < LEVEL else shown


def signed(value: float) -> str:
    """A number with its sign, a true minus."""
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else ""
    return sign + number(abs(value))
