"""What made the figures of a sweep's table, as its runs recorded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..comparable import reasons_against
from ..runfiles import RunFiles
from .runner import Run

#: what the table says of it, from a run's environment.json
RECORDED: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "revision": lambda environment: environment.get("git"),
    "xraygan": lambda environment: environment.get("xraygan"),
    "torch": lambda environment: environment.get("torch"),
    "device": lambda environment: environment.get("device"),
    "threads": lambda environment: environment.get("threads"),
    "fingerprint of the data": lambda environment: environment.get("dataset", {}).get(
        "fingerprint"
    ),
}


def incomparable(metrics: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Why rows of the table cannot be compared by a metric, as Markdown lines."""
    done = [RunFiles(run.place.path) for run in runs if run.done]
    lines = []
    for metric in metrics:
        reasons = dict.fromkeys(reasons_against(metric, done))
        lines += [f"- {metric}: not to be compared between runs: {why}" for why in reasons if why]
    return [*lines, ""] if lines else []


def provenance(runs: Sequence[Run]) -> list[str]:
    """Revision, versions, device, data and seeds of the runs that are done, as Markdown lines.

    Where the runs disagree, each value stands with the runs that it is of.
    """
    done = [run for run in runs if run.done]
    if not done:
        return []
    found = {run.place.path.name: RunFiles(run.place.path).environment for run in done}
    lines = ["Made by:", ""]
    for what, read in RECORDED.items():
        values: dict[str, list[str]] = {}
        for name, environment in found.items():
            values.setdefault(str(read(environment) or "not recorded"), []).append(name)
        if len(values) == 1:
            lines.append(f"- {what}: {next(iter(values))}")
            continue
        lines.append(f"- {what}: **the runs differ**")
        lines += [f"    - {value}: {', '.join(names)}" for value, names in values.items()]
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(run.seed for run in done))
    return [*lines, f"- seeds: {seeds}", ""]
