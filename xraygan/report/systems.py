"""Comparison of systems: a system is the runs of one recipe that differ only in their seeds."""

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

#: keys of a recipe that may differ between the runs of one system
SEED_KEYS = {"run": ("seed", "name")}

Comparisons = dict[tuple[int, str], Estimate]


@dataclass
class System:
    """Runs that differ only in their seeds.

    Attributes:
        name: the name of the first run.
        files: the runs by seed; of two runs with one seed, the first.
        runs: their measurements by seed.
    """

    name: str
    files: dict[int, RunFiles] = field(default_factory=dict)

    @cached_property
    def runs(self) -> dict[int, Resampled]:
        return {seed: Resampled(run) for seed, run in self.files.items()}

    def compares(self, base: System, metric: str) -> bool:
        """Whether a metric can be compared between both systems."""
        pairs = ((run, base.files[seed]) for seed, run in self.files.items() if seed in base.files)
        return not any(why_not(metric, *pair) for pair in pairs)

    @property
    def title(self) -> str:
        seeds = ", ".join(map(str, self.files))
        return f"{self.name} (seed{'s' * (len(self.files) > 1)} {seeds})"


def systems(runs: Sequence[tuple[str, RunFiles]]) -> list[System]:
    """The systems of named runs, in the order of their first runs.

    A run without a readable recipe belongs to no system.
    """
    by_recipe: dict[str, System] = {}
    for name, run in runs:
        if not run.recipe_text:
            continue
        seed = run.recipe.get("run", {}).get("seed", 0)
        system = by_recipe.setdefault(_without_seed(run.recipe), System(name))
        system.files.setdefault(seed, run)
    return list(by_recipe.values())


def _without_seed(recipe: Object) -> str:
    tables = {
        name: {key: value for key, value in keys.items() if key not in SEED_KEYS.get(name, ())}
        if isinstance(keys, Mapping)
        else keys
        for name, keys in recipe.items()
    }
    return json.dumps(tables, sort_keys=True, default=str)


def over_seeds(runs: Sequence[tuple[str, RunFiles]], metrics: Sequence[str]) -> Html | None:
    """Differences from the first system over training seeds and test patients.

    None if no two systems share two seeds, since the variance of training is unknown then.
    """
    base, *others = systems(runs) or [System("")]
    comparisons: Comparisons = {}
    for i, other in enumerate(others):
        for name in metrics:
            if not other.compares(base, name):
                continue
            gap = difference(other.runs, base.runs, name)
            if gap is not None and gap.interval is not None:
                comparisons[i, name] = gap
    if not comparisons:
        return None
    p_values = [gap.p if gap.p is not None else 1.0 for gap in comparisons.values()]
    adjusted = dict(zip(comparisons, holm(p_values), strict=True))
    shown = sorted({i for i, _ in comparisons})
    rows = [
        (tag("code", name), *(_cell(comparisons, adjusted, (i, name)) for i in shown))
        for name in metrics
        if any((i, name) in comparisons for i in shown)
    ]
    without = dict.fromkeys(name for (_, name), gap in comparisons.items() if not gap.patients)
    alone = f" ({', '.join(without)}: over training seeds alone)" if without else ""
    text = (
        f"Difference from {base.title}, paired by seed, with a 95 % interval over training seeds "
        f"and patients{alone}. p is adjusted for the number of differences shown, "
        f"{len(comparisons)} (Holm); p below {LEVEL:g} is marked."
    )
    heads = ["Metric", *(others[i].title for i in shown)]
    return join(
        [tag("h3", "Over training seeds"), tag("p", text), table(heads, rows, style="wide")]
    )


def _cell(
    comparisons: Comparisons,
    adjusted: Mapping[tuple[int, str], float],
    cell: tuple[int, str],
) -> Html:
    if cell not in comparisons:
        return tag("span", NONE)
    gap, p = comparisons[cell], adjusted[cell]
    low, high = gap.interval or (gap.value, gap.value)
    text = f"{signed(gap.value)} ({signed(low)} to {signed(high)}), p "
    text += "<0.001" if p < 0.001 else f"{p:.3f}"
    shown = tag("span", f"{text}, {len(gap.values)} seeds")
    return tag("mark", shown) if p < LEVEL else shown


def signed(value: float) -> str:
    """A number with its sign, a typographic minus for negative ones."""
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else ""
    return sign + number(abs(value))
