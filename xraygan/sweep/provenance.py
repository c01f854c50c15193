"""The versions, devices, data and seeds behind a sweep's table, as its runs recorded them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xraygan.report.comparability import reasons_against
from xraygan.rundir.reader import RunFiles


def over_time(environment: Mapping[str, Any], key: str) -> object:
    """An entry of ``environment.json``, with its earlier values if the run was resumed with others,
    each with the step until which it was in use."""
    current, earlier = environment.get(key), []
    for entry in environment.get("resumed", []):
        if (changed := entry.get("changed", {}).get(key)) and entry.get("step"):
            earlier.append(f"{changed.get('was')} until step {entry['step']}")
    return ", ".join([*earlier, str(current)]) if earlier else current


#: entry whose value depends on the seed in runs with ``data.limit``: each seed draws its own images
FINGERPRINT = "fingerprint of the data"

#: line of the table's foot -> its value from a run's environment.json
RECORDED: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "revision": lambda environment: environment.get("git"),
    "xraygan": lambda environment: environment.get("xraygan"),
    "torch": lambda environment: over_time(environment, "torch"),
    "device": lambda environment: over_time(environment, "device"),
    "threads": lambda environment: over_time(environment, "threads"),
    FINGERPRINT: lambda environment: environment.get("dataset", {}).get("fingerprint"),
}


def incomparable(metrics: Sequence[str], runs: Sequence[RunFiles]) -> list[str]:
    """Why runs of the table cannot be compared by a metric, as Markdown lines."""
    lines = []
    for metric in metrics:
        reasons = dict.fromkeys(reasons_against(metric, runs))
        lines += [f"- {metric}: not comparable between runs: {r}" for r in reasons if r]
    return [*lines, ""] if lines else []


def provenance(
    runs: Sequence[RunFiles], seeds: Sequence[int], known: Mapping[str, str] | None = None
) -> list[str]:
    """Revision, versions, device, data and seeds of the complete runs, as Markdown lines.

    If the runs differ in an entry, each value is listed with its runs. With ``data.limit`` each
    seed draws its own images: there runs differ if those of one seed do.

    Args:
        known: entries with other values than those of the single runs.
    """
    if not runs:
        return []
    lines = ["Made by:", ""]
    for entry, read in RECORDED.items():
        if known and entry in known:
            lines.append(f"- {entry}: {known[entry]}")
            continue
        values: dict[str, list[str]] = {}
        for run in runs:
            value = str(read(run.environment) or "not recorded")
            values.setdefault(value, []).append(run.directory.name)
        if len(values) == 1:
            lines.append(f"- {entry}: {next(iter(values))}")
            continue
        if entry == FINGERPRINT and (drawn := _by_seed(runs)):
            lines.append(f"- {entry}: {drawn}")
            continue
        lines.append(f"- {entry}: **the runs differ**")
        lines += [f"    - {value}: {', '.join(names)}" for value, names in values.items()]
    return [*lines, f"- seeds: {', '.join(map(str, seeds))}", ""]


def _by_seed(runs: Sequence[RunFiles]) -> str:
    """The fingerprint of each seed's images, or nothing if seeds alone do not explain them."""
    found: dict[int, set[str]] = {}
    for run in runs:
        seed = run.recipe.get("run", {}).get("seed")
        if seed is None or not run.recipe.get("data", {}).get("limit"):
            return ""
        fingerprint = RECORDED[FINGERPRINT](run.environment)
        found.setdefault(seed, set()).add(str(fingerprint or "not recorded"))
    if any(len(values) > 1 for values in found.values()):
        return ""
    return ", ".join(f"{next(iter(found[seed]))} (seed {seed})" for seed in sorted(found))
