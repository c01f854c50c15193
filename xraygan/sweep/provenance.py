"""What made the figures of a sweep's table, as its runs recorded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xraygan.report.comparability import reasons_against
from xraygan.rundir.reader import RunFiles


def over_time(environment: Mapping[str, Any], key: str) -> object:
    """A fact that a run recorded; of a run that was resumed with another one, each with the step
    until which it held."""
    now, said = environment.get(key), []
    for entry in environment.get("resumed", []):
        if (changed := entry.get("changed", {}).get(key)) and entry.get("step"):
            said.append(f"{changed['was']} until step {entry['step']}")
    return ", ".join([*said, str(now)]) if said else now


#: what the table says of it, from a run's environment.json
RECORDED: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "revision": lambda environment: environment.get("git"),
    "xraygan": lambda environment: environment.get("xraygan"),
    "torch": lambda environment: over_time(environment, "torch"),
    "device": lambda environment: over_time(environment, "device"),
    "threads": lambda environment: over_time(environment, "threads"),
    "fingerprint of the data": lambda environment: environment.get("dataset", {}).get(
        "fingerprint"
    ),
}


def incomparable(metrics: Sequence[str], runs: Sequence[RunFiles]) -> list[str]:
    """Why rows of the table cannot be compared by a metric, as Markdown lines."""
    lines = []
    for metric in metrics:
        reasons = dict.fromkeys(reasons_against(metric, runs))
        lines += [f"- {metric}: not to be compared between runs: {why}" for why in reasons if why]
    return [*lines, ""] if lines else []


def provenance(runs: Sequence[RunFiles], seeds: Sequence[int]) -> list[str]:
    """Revision, versions, device, data and seeds of the runs that are done, as Markdown lines.

    Where the runs disagree, each value stands with the runs that it is of.
    """
    if not runs:
        return []
    lines = ["Made by:", ""]
    for what, read in RECORDED.items():
        values: dict[str, list[str]] = {}
        for run in runs:
            value = str(read(run.environment) or "not recorded")
            values.setdefault(value, []).append(run.directory.name)
        if len(values) == 1:
            lines.append(f"- {what}: {next(iter(values))}")
            continue
        lines.append(f"- {what}: **the runs differ**")
        lines += [f"    - {value}: {', '.join(names)}" for value, names in values.items()]
    return [*lines, f"- seeds: {', '.join(map(str, seeds))}", ""]
