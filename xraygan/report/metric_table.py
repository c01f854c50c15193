"""The table of an evaluation's metrics in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xraygan.utils.naming import subgroup_figure

from .descriptions import METRICS
from .html import NONE, Html, count, join, number, table, tag


def metric_table(evaluation: Mapping[str, Any]) -> Html:
    """The figures of an ``evaluation.json``; those of subgroups have tables of their own."""
    groups: dict[str, dict[str, Any]] = {}
    for name, measurement in evaluation["metrics"].items():
        if not subgroup_figure(name):
            groups.setdefault(name.partition("/")[0], {})[name] = measurement
    single: list[Sequence[object]] = []
    grouped: list[Sequence[object]] = []
    for base, members in groups.items():
        title, meaning = METRICS.get(base, (base.replace("_", " ").capitalize(), ""))
        heading = join([title, tag("div", tag("code", base), f" {meaning}", class_="muted")])
        if list(members) == [base]:
            single.append((heading, *_cells(members[base])))
            continue
        grouped.append((heading,))
        for name, measurement in members.items():
            prefix, slash, member = name.partition("/")
            grouped.append((join([tag("small", prefix + slash), member]), *_cells(measurement)))
    share = f"{evaluation.get('protocol', {}).get('confidence', 0.95) * 100:g} %"
    head = ["Metric", "Value", f"{share} interval", "n", "Note"]
    return table(head, single + grouped, numbers=(1, 2, 3), style="wide metrics")


def _cells(measurement: Mapping[str, Any]) -> tuple[object, ...]:
    """The cells of a measurement: value, interval, n, note."""
    value, interval = measurement.get("value"), measurement.get("interval")
    shown: object = number(value)
    if isinstance(value, list):
        rows = [row if isinstance(row, list) else [row] for row in value]
        lines = [" ".join(f"{number(cell):>6}" for cell in row) for row in rows]
        shown = tag("details", tag("summary", "show"), tag("pre", "\n".join(lines)))
    bounds = f"{number(interval[0])} to {number(interval[1])}" if interval else NONE
    return shown, bounds, count(measurement.get("n")), measurement.get("note") or ""
