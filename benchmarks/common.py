"""What the benchmarks share: candidates timed in turn, and one table, or JSON, of ratios.

Times of one machine and one hour say little elsewhere, and on a shared machine little at all. So a
benchmark times what it compares alternately, in one run, and reports medians and their ratios.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import click


def in_turn(
    candidates: Mapping[str, Callable[[], float | None]], repetitions: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time candidates alternately, so that what else the machine does meets all of them alike.

    Args:
        candidates: what is timed by its name; one that returns a number gives that as its figure
            (a rate, or seconds of which it knows better), else its seconds are taken.
        repetitions: how often each is called and counted.
        warm_up: how often each is called before that.

    Returns:
        The figures of each, in the order they were taken.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(-warm_up, repetitions):
        for name, call in candidates.items():
            began = time.perf_counter()
            own = call()
            seconds = time.perf_counter() - began
            if repetition >= 0:
                figures[name].append(seconds if own is None else own)
    return figures


def seconds_of(call: Callable[[], object], times: int = 1) -> float:
    """Seconds of one call, the mean over several."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


@dataclass
class Row:
    """One figure and what it is compared with.

    Attributes:
        ratio: the figure over the one that ``to`` names, measured in the same run.
    """

    what: str
    value: float
    unit: str
    ratio: float | None = None
    to: str = ""


@dataclass
class Report:
    """A benchmark's figures.

    Attributes:
        notes: what was left out and why, and what a reader must know.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, what: str, value: float, unit: str, base: float | None = None, to: str = ""
    ) -> None:
        """Add a figure and, where ``base`` is given, its ratio to that."""
        self.rows.append(Row(what, value, unit, None if base is None else value / base, to))

    def print(self) -> None:
        """Print one table."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        table.add_column("what")
        table.add_column("value", justify="right")
        table.add_column("ratio", justify="right")
        table.add_column("to")
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
            table.add_row(row.what, f"{_rounded(row.value)} {row.unit}", ratio, row.to)
        # In a pipe nothing is wrapped: rich would take it for 80 columns wide.
        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)
        console.print(", ".join(f"{key} {value}" for key, value in machine().items()))

    def as_json(self) -> str:
        content: dict[str, Any] = {**asdict(self), "machine": machine()}
        return json.dumps(content, indent=1)


def _rounded(value: float) -> str:
    """Three significant digits, whole where there are more."""
    if not value or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def median(values: list[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, str]:
    """Where it was measured; torch is asked only if the benchmark has imported it."""
    found = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
    }
    if torch := sys.modules.get("torch"):
        found["threads"] = str(torch.get_num_threads())
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def benchmark(measure: Callable[..., Report]) -> click.Command:
    """Make ``measure(fast, ...)`` a command with ``--fast`` and ``--json``.

    Further click options can be put above it; they reach ``measure`` by name.
    """

    @click.option("--fast", is_flag=True, help="As small as it gets: it only shows that it runs.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
    @functools.wraps(measure)
    def command(fast: bool, as_json: bool, **options: Any) -> None:
        report = measure(fast, **options)
        if as_json:
            click.echo(report.as_json())
        else:
            report.print()

    return click.command(help=measure.__doc__)(command)
