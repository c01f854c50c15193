"""The metrics of several runs beside each other, with their differences from the first run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xraygan.rundir.reader import Object
from xraygan.statistics.paired_bootstrap import Estimate, Resampled, difference
from xraygan.utils.naming import subgroup_figure

from .comparability import reasons_against
from .descriptions import METRICS, protocol
from .differences import Runs, as_toml, differences, headings
from .html import NONE, Html, count, join, number, table, tag
from .plots import intervals
from .systems import over_seeds, signed

PAIRED = (
    "Under each value is its interval, over patients unless a note says otherwise. Below it is the "
    "difference from the first run, with an interval over the same resamples of the same patients, "
    "if both runs have them. Two runs cannot separate the effect of the recipe from that of the "
    "seed: with other seeds either may be better. Recipes that ran with two or more seeds are "
    "compared over their seeds."
)

SUBGROUPS = (
    "Figures of subgroups are in the report of each run; a sweep compares those that it names."
)


def metrics_section(runs: Runs) -> Html:
    """The table of all metrics, a column for each run, and the comparison over seeds."""
    measured = [run.evaluation.get("metrics", {}) for _, run in runs]
    every = dict.fromkeys(name for metrics in measured for name in metrics)
    names = [name for name in every if not subgroup_figure(name)]
    if not names:
        return tag("p", "None of the runs has been evaluated.")
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("/")[0], []).append(name)
    resampled = [Resampled(run) for _, run in runs]
    rows: list[Sequence[object]] = []
    for base, members in groups.items():
        title, meaning = METRICS.get(base, (base.replace("_", " ").capitalize(), ""))
        if base == "confusion_matrix":
            continue
        if members == [base]:
            note = " · ".join(filter(None, (meaning, _images_measured(runs, base))))
            heading = join([title, tag("div", note, class_="muted")])
            rows.append((heading, *_measured(runs, base, resampled)))
            continue
        rows.append((join([title, tag("div", meaning, class_="muted")]),))
        for name in members:
            n = tag("span", _images_measured(runs, name), class_="muted n")
            rows.append((join([name.partition("/")[2], " ", n]), *_measured(runs, name, resampled)))
    head = ["Metric", *headings(runs), "Intervals, each row on its own scale"]
    shown = table(head, rows, numbers=range(1, len(runs) + 1), style="wide")
    more = tag("p", SUBGROUPS) if len(names) < len(every) else None
    return join([_protocols(runs), tag("p", PAIRED), shown, more, over_seeds(runs, names)])


def _measured(runs: Runs, name: str, resampled: Sequence[Resampled]) -> list[object]:
    """The cells of a metric: the value of each run, and the intervals of the comparable runs."""
    cells: list[object] = []
    drawn: list[tuple[float, float, float] | None] = []
    reasons = reasons_against(name, [run for _, run in runs])
    for i, (_, run) in enumerate(runs):
        metric = run.evaluation.get("metrics", {}).get(name) or {}
        reason = metric.get("note") or "not measured"
        if not isinstance(value := metric.get("value"), int | float) or not np.isfinite(value):
            cells.append(join([NONE, tag("div", reason, class_="muted note")]))
            drawn.append(None)
            continue
        low, high = metric.get("interval") or (value, value)
        span = f"{number(low)} to {number(high)}" if metric.get("interval") else "no interval"
        drawn.append(None if reasons[i] else (value, low, high))
        comparable = i > 0 and not reasons[i]
        gap = difference({0: resampled[i]}, {0: resampled[0]}, name) if comparable else None
        cells.append(join([number(value), tag("div", span, class_="muted"), _gap(gap)]))
    notes = [f"Not comparable: {reason}." for reason in dict.fromkeys(reasons) if reason]
    text = join(tag("div", note, class_="muted note") for note in notes)
    if sum(interval is not None for interval in drawn) <= bool(notes):  # none, or one alone
        return [*cells, text]
    return [*cells, join([intervals(drawn, f"{name} of each run, with intervals"), text])]


def _gap(gap: Estimate | None) -> Html | None:
    """A difference from the first run, over the patients that both runs share."""
    if gap is None or gap.patients is None:
        return None
    figures = (gap.value, *gap.patients)
    coarse = max(map(abs, figures)) >= 1e-3  # then smaller digits would not be read
    value, low, high = (signed(round(x, 3) if coarse else x) for x in figures)
    shown = join([f"{value} ", tag("span", f"({low} to {high}, patients alone)", class_="n")])
    return tag("div", shown, class_="gap muted")


def _images_measured(runs: Runs, name: str) -> str:
    """The number of images that a value was measured on; one for each run if they differ."""
    numbers = [run.evaluation.get("metrics", {}).get(name, {}).get("n") for _, run in runs]
    known = dict.fromkeys(n for n in numbers if n is not None)
    return "n\N{NO-BREAK SPACE}" + ", ".join(map(count, known))


def _protocols(runs: Runs) -> Html:
    """How the runs were measured, and the differences of their protocols."""
    protocols = {protocol(run): None for _, run in runs if run.evaluation}
    trees: list[Object | None] = [
        {
            "step": run.evaluation.get("step"),
            "dataset": {"fingerprint": run.environment.get("dataset", {}).get("fingerprint")},
            **run.evaluation.get("protocol", {}),
        }
        if run.evaluation
        else None
        for _, run in runs
    ]
    if len({as_toml(tree) for tree in trees if tree is not None}) == 1:
        return tag("p", *protocols)
    notice = (
        "These runs were measured with different protocols. The entries below may explain "
        "differences between their metrics."
    )
    listed = differences(runs, trees, "entries of the protocol")
    return join([tag("div", tag("p", notice), class_="notice"), listed])
