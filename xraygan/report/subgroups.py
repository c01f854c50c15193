"""The figures of subgroups in a report: one table for age, sex and view each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from xraygan.utils.naming import SubgroupFigure, subgroup_figure

from .html import NONE, Html, count, join, number, table, tag

Metrics = Mapping[str, Any]
#: figure -> its title; a figure of a plugin has its own name
TITLES = {
    "auc": "AUC",
    "auc_difference": "AUC less that of the other groups",
    "sensitivity": "Sensitivity at the threshold of all patients",
    "specificity": "Specificity at the threshold of all patients",
}
#: the figure that counts images, which heads the columns
COUNTED = "images"
EXPLAINED = (
    "Each group's figures with their 95 % intervals over patients, on the images of the group "
    "alone. Groups differ in their patients and in how frequent a finding is, not only in how well "
    "the classifier works. Differences are descriptive: with many groups and classes some are "
    "large by chance, and the intervals are not adjusted for that."
)


def subgroup_tables(metrics: Metrics) -> Html | None:
    """The figures of subgroups among an evaluation's metrics; None if there are none."""
    figures = [found for name in metrics if (found := subgroup_figure(name))]
    if not figures:
        return None
    keys = dict.fromkeys(found.key for found in figures)
    shown = [_by(key, [f for f in figures if f.key == key], metrics) for key in keys]
    return join([tag("p", EXPLAINED), *shown])


def _by(key: str, figures: Iterable[SubgroupFigure], metrics: Metrics) -> Html:
    """The table of one way to divide the images: a row for each figure, a column for each group."""
    counts = {f.group: metrics[f.name] for f in figures if f.figure == COUNTED}
    measured = [f for f in figures if f.figure != COUNTED]
    notes = [
        tag("p", f"{group.capitalize()}: {count(one.get('value'))} images, {one.get('note')}.")
        for group, one in counts.items()
        if group == "unknown" and one.get("value")
    ]
    title = tag("h3", f"By {key}")
    groups = list(dict.fromkeys(f.group for f in measured))
    if not groups:
        return join([title, *notes])
    head = ["", "All", *(_heading(group, counts.get(group)) for group in groups)]
    rows: list[list[object]] = []
    kinds: dict[str, dict[str, None]] = {}
    for found in measured:
        kinds.setdefault(found.figure.partition("/")[0], {})[found.figure] = None
    for kind, names in kinds.items():
        rows.append([TITLES.get(kind, kind.replace("_", " ").capitalize())])
        for name in names:
            cells = (metrics.get(SubgroupFigure(name, key, group).name) for group in groups)
            whole = _cell(metrics.get(name) and {**metrics[name], "note": ""})
            rows.append([name.partition("/")[2], whole, *map(_cell, cells)])
    numbers = range(1, len(head))
    return join([title, *notes, table(head, rows, numbers=numbers, style="wide")])


def _heading(group: str, counted: Mapping[str, Any] | None) -> Html:
    if counted is None:
        return join([group])
    _, _, patients = str(counted.get("note")).rpartition("; ")
    text = f"{count(counted.get('value'))} images, {patients}"
    return join([group, tag("div", text, class_="muted")])


def _cell(measured: Mapping[str, Any] | None) -> Html:
    """A figure over its interval and its number of positive images; or why there is none."""
    if measured is None:
        return join([NONE])
    value, interval, note = (measured.get(key) for key in ("value", "interval", "note"))
    lines = []
    if interval:
        lines.append(tag("div", f"{number(interval[0])} to {number(interval[1])}", class_="muted"))
    if note:  # of how many positive images, or why there is no value
        lines.append(tag("div", note.partition(";")[0], class_="muted note"))
    return join([number(value), *lines])
