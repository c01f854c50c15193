"""Several run directories as one page: what differs between them, and what came of it.

As the report of one run, it reads files and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xraygan.errors import UserError
from xraygan.rundir.reader import ALSO_LOGGED, ByClass, Lacking, Object, RunFiles, Series
from xraygan.statistics.paired_bootstrap import Estimate, Resampled, difference

from .comparability import reasons_against
from .gallery import BESIDE, SOURCES, by_class, over_training
from .html import NONE, Html, body, count, document, duration, join, number, panel, table, tag
from .plots import MOST_RUNS, classifier_curves, curve, intervals, key
from .run_report import METRICS, missing, protocol, summary, weights_and_audiences
from .systems import over_seeds, signed

WARNINGS = 10  # shown of each run at most; its log has them all

#: what differs between any two runs and explains nothing
OF_NO_CONCERN = ("started", "command")

PAIRED = (
    "Under a value stands its interval, over patients unless a note says otherwise, then its "
    "difference from the first run with an interval over the same resamples of the same patients, "
    "where both runs have them. Two runs cannot tell what a recipe does from what its seed does: "
    "with other seeds either may be better. Recipes that ran with two seeds are compared over them."
)

Runs = Sequence[tuple[str, RunFiles]]


def open_runs(directories: Sequence[Path]) -> list[RunFiles]:
    """The runs that a reader names.

    Raises:
        UserError: one is no run directory or is named twice, or there are too many to tell apart.
    """
    known: dict[Path, Path] = {}
    for directory in directories:
        if (place := directory.resolve()) in known:
            raise UserError(f"{directory}: the same run as {known[place]}; name each run once")
        known[place] = directory
    if len(directories) > MOST_RUNS:
        raise UserError(
            f"{len(directories)} runs are too many for one page; name at most {MOST_RUNS}"
        )
    return [RunFiles.open(directory) for directory in directories]


def comparison(runs: Sequence[RunFiles]) -> str:
    """The page of several runs."""
    named = list(zip(_titles(runs), runs, strict=True))
    sections = {
        "Recipes": _recipes(named),
        "Metrics": _metrics(named),
        "Images": _images(named),
        "Losses": _losses(named),
        "Classes": _classes(named),
        "Throughput": _throughput(named),
        "Warnings": _warnings(named),
    }
    sections = {"Runs": _runs(named), **sections}  # only now are all files read that are missed
    title = f"{len(runs)} runs compared"
    legend = tag("ul", *(tag("li", _name(i, name)) for i, (name, _) in enumerate(named)))
    page = body([tag("h1", title)], sections, tag("div", legend, class_="legend"))
    return document(f"{', '.join(name for name, _ in named)}: xraygan runs", page)


def _titles(runs: Sequence[RunFiles]) -> list[str]:
    """The runs' names; if two have the same, their directories', with their parents if need be."""
    paths = [run.directory.resolve() for run in runs]
    for names in ([run.name for run in runs], [path.name for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _name(i: int, name: str) -> Html:
    return tag("span", key(i), tag("span", name), class_="run")


def _heads(runs: Runs) -> list[Html]:
    return [_name(i, name) for i, (name, _) in enumerate(runs)]


def _runs(runs: Runs) -> Html:
    shown = []
    for i, (name, run) in enumerate(runs):
        place = tag("p", tag("code", run.directory), class_="muted")
        says = tag("p", summary(run), f" Trained for {_time(run)}." if run.seconds else None)
        shown.append(tag("div", tag("h3", _name(i, name)), place, says, missing(run)))
    return tag("div", *shown, class_="panels pairs")


def _time(run: RunFiles) -> str:
    return duration(run.seconds) if run.seconds else NONE


# -- what differs ----------------------------------------------------------------------------------


def _recipes(runs: Runs) -> Html:
    lacking = ", ".join(name for name, run in runs if not run.recipe_text)
    note = f"Without {lacking}, whose recipe cannot be read." if lacking else None
    recipes = [run.recipe if run.recipe_text else None for _, run in runs]
    places = [
        {name: value for name, value in run.environment.items() if name not in OF_NO_CONCERN}
        for _, run in runs
    ]
    return join(
        [
            tag("p", note) if note else None,
            differences(runs, recipes, "keys of the recipes"),
            tag("h3", "Environment"),
            differences(runs, [place or None for place in places], "entries"),
        ]
    )


def differences(runs: Runs, trees: Sequence[Object | None], what: str) -> Html:
    """A table of the keys whose values differ, and a folded one of all others.

    What is marked differs from the first run.

    Args:
        trees: nested tables of each run, None where they are not known.
        what: what the keys are called.
    """
    flat = [None if tree is None else dict(_flat(tree)) for tree in trees]
    known = [tree for tree in flat if tree is not None]
    keys = dict.fromkeys(name for tree in known for name in tree)
    same, differing = [], []
    for name in keys:
        texts = [_toml(tree[name]) if name in tree else None for tree in known]
        if len(set(texts)) == 1:
            same.append((tag("code", name), tag("code", texts[0])))
            continue
        shown = [NONE if tree is None else _cell(tree, name, texts[0]) for tree in flat]
        differing.append((tag("code", name), *shown))
    says = f"{count(len(same))} {what} are the same"
    fold = tag("details", tag("summary", says), table([], same, style="values")) if same else None
    if not differing:
        return join([tag("p", f"No {what} differ." if known else f"No {what} are known."), fold])
    return join([table(["Key", *_heads(runs)], differing, style="wide values"), fold])


def _cell(tree: Mapping[str, Any], name: str, first: str | None) -> Html:
    """A value, marked where it is not the first run's; a dash where there is none."""
    text = _toml(tree[name]) if name in tree else None
    shown = tag("code", text or NONE)
    return shown if text == first else tag("mark", shown)


def _flat(tree: Mapping[str, Any], at: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def _toml(value: Any) -> str:
    """A value as a recipe has it, near enough for a reader."""
    return json.dumps(value, ensure_ascii=False, default=str)


# -- metrics ---------------------------------------------------------------------------------------


def _metrics(runs: Runs) -> Html:
    measured = [run.evaluation.get("metrics", {}) for _, run in runs]
    names = dict.fromkeys(name for metrics in measured for name in metrics)
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
            about = join([title, tag("div", note, class_="muted")])
            rows.append((about, *_measured(runs, base, resampled)))
            continue
        rows.append((join([title, tag("div", meaning, class_="muted")]),))
        for name in members:
            n = tag("span", _images_measured(runs, name), class_="muted n")
            rows.append((join([name.partition("/")[2], " ", n]), *_measured(runs, name, resampled)))
    head = ["Metric", *_heads(runs), "Intervals, each row on its own scale"]
    shown = table(head, rows, numbers=range(1, len(runs) + 1), style="wide")
    return join([_protocols(runs), tag("p", PAIRED), shown, over_seeds(runs, [*names])])


def _measured(runs: Runs, name: str, resampled: Sequence[Resampled]) -> list[object]:
    """A metric's cells: what each run measured, and the intervals drawn of those that compare."""
    cells: list[object] = []
    drawn: list[tuple[float, float, float] | None] = []
    reasons = reasons_against(name, [run for _, run in runs])
    for i, (_, run) in enumerate(runs):
        found = run.evaluation.get("metrics", {}).get(name) or {}
        why = found.get("note") or "not measured"
        if not isinstance(value := found.get("value"), int | float) or not np.isfinite(value):
            cells.append(join([NONE, tag("div", why, class_="muted note")]))
            drawn.append(None)
            continue
        low, high = found.get("interval") or (value, value)
        span = f"{number(low)} to {number(high)}" if found.get("interval") else "no interval"
        drawn.append(None if reasons[i] else (value, low, high))
        other = i and not reasons[i]
        gap = difference({0: resampled[i]}, {0: resampled[0]}, name) if other else None
        cells.append(join([number(value), tag("div", span, class_="muted"), _gap(gap)]))
    struck = [f"Not to be compared: {reason}." for reason in dict.fromkeys(reasons) if reason]
    says = join(tag("div", line, class_="muted note") for line in struck)
    if sum(one is not None for one in drawn) <= bool(struck):  # nothing, or one without a fellow
        return [*cells, says]
    return [*cells, join([intervals(drawn, f"{name} of each run, with intervals"), says])]


def _gap(gap: Estimate | None) -> Html | None:
    """A difference from the first run, over the patients that they share."""
    if gap is None or gap.patients is None:
        return None
    figures = (gap.value, *gap.patients)
    coarse = max(map(abs, figures)) >= 1e-3  # then what is below is zero to a reader
    value, low, high = (signed(round(x, 3) if coarse else x) for x in figures)
    shown = join([f"{value} ", tag("span", f"({low} to {high}, patients alone)", class_="n")])
    return tag("div", shown, class_="gap muted")


def _images_measured(runs: Runs, name: str) -> str:
    """How many images a value was measured on, of each run where they differ."""
    found = [run.evaluation.get("metrics", {}).get(name, {}).get("n") for _, run in runs]
    known = dict.fromkeys(n for n in found if n is not None)
    return "n\N{NO-BREAK SPACE}" + ", ".join(map(count, known))


def _protocols(runs: Runs) -> Html:
    """How the runs were measured, and where not alike."""
    said = {protocol(run): None for _, run in runs if run.evaluation}
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
    if len({_toml(tree) for tree in trees if tree is not None}) == 1:
        return tag("p", *said)
    notice = "These runs were not measured alike: differences may come from what is listed here."
    words = differences(runs, trees, "words of the protocol")
    return join([tag("div", tag("p", notice), class_="notice"), words])


# -- images and curves -----------------------------------------------------------------------------


def _images(runs: Runs) -> Html:
    makers = [(_name(i, name), name, run) for i, (name, run) in enumerate(runs) if run.grids]
    if not makers:
        return tag("p", "None of the runs has generated images.")
    reals: dict[bytes, tuple[list[str], Any]] = {}
    for _, name, run in makers:
        if run.real:
            reals.setdefault(run.real.tobytes(), ([], run.real))[0].append(name)
    shared = len(reals) == 1
    shown = [
        ("from the training split" + ("" if shared else f" of {', '.join(names)}"), picture)
        for names, picture in reals.values()
    ]
    return join([over_training(makers, shown), tag("h3", "By class"), _by_class(runs)])


def _by_class(runs: Runs) -> Html:
    columns: list[tuple[str, ByClass, str]] = []
    notes = []
    for name, run in runs:
        if not run.grids:
            continue
        try:
            step, _ = run.last_samples()
            images = run.by_class(step, BESIDE)
        except Lacking as lacking:
            notes.append(f"{name} is not shown by class, for {lacking}.")
            continue
        if not columns:
            columns.append((f"Real, of {name}", images, "real"))
        columns.append((f"{name}, step {count(step)}", images, "generated"))
        notes.append(SOURCES[images.source])
    lines = [tag("p", note, class_="muted") for note in dict.fromkeys(notes) if note]
    return join([*lines, by_class(columns) if columns else None])


def _losses(runs: Runs) -> Html:
    def terms(run: RunFiles) -> Series:
        found = run.series(lambda line: line.get("terms"))
        about = weights_and_audiences(run.recipe)
        return {name: found[name] for name in (*about, *found) if name in found}

    shown = [_panels(runs, terms, _weights)]
    for title, values in ALSO_LOGGED.items():
        drawn = _panels(runs, lambda run, values=values: run.series(values))  # type: ignore[misc]
        if drawn is not None:
            shown += [tag("h3", title), drawn]
    return join(shown) if shown[0] is not None else tag("p", "None of the runs has logged a line.")


def _weights(runs: Runs, name: str) -> str:
    """The weight of a term in each run, once where it is the same."""
    weights = []
    for _, run in runs:
        about = weights_and_audiences(run.recipe).get(name, "")
        weights.append(next((w for w in about.split(" · ") if w.startswith("weight ")), NONE))
    if len(set(weights)) == 1:
        return weights[0].replace(NONE, "")
    return "weight " + ", ".join(w.removeprefix("weight ") for w in weights)


def _panels(
    runs: Runs,
    series: Callable[[RunFiles], Series],
    detail: Callable[[Runs, str], str] = lambda runs, name: "",
) -> Html | None:
    """A panel for each value over training, with a line a run; None if there is no value."""
    found = [series(run) for _, run in runs]
    nothing = (np.empty(0), np.empty(0))
    panels = []
    for name in dict.fromkeys(name for of in found for name in of):
        lines = [of.get(name, nothing) for of in found]
        drawn = tag("small", "no value")
        if any(np.isfinite(values).any() for _, values in lines):
            drawn = curve(lines, f"{name} over training, a line a run")
        panels.append(panel(name, detail(runs, name), drawn))
    return tag("div", *panels, class_="panels") if panels else None


def _classes(runs: Runs) -> Html:
    curves = [{name: (truth, probs) for name, truth, probs in run.curves()[0]} for _, run in runs]
    names = dict.fromkeys(name for of in curves for name in of)
    if not names:
        return tag("p", "None of the runs has predictions to draw ROC curves of.")
    panels = [
        panel(
            name,
            "",
            classifier_curves(
                [of.get(name) for of in curves], f"ROC and precision-recall curves of {name}"
            ),
        )
        for name in names
    ]
    kinds = " and ".join(dict.fromkeys(run.kind for _, run in runs))
    says = f"ROC and precision-recall curves on {kinds} images; thin and dashed: guessing."
    return join([tag("p", says), tag("div", *panels, class_="panels pairs")])


def _throughput(runs: Runs) -> Html:
    def speed(run: RunFiles) -> Series:
        return run.series(
            lambda line: (
                {"images_per_second": line["images_per_second"]}
                if line.get("images_per_second") is not None
                else None
            )
        )

    rows = []
    for i, (name, run) in enumerate(runs):
        values = next((values for _, values in speed(run).values()), np.empty(0))
        median = number(float(np.nanmedian(values))) if len(values) else NONE
        device = tag("div", run.environment.get("device"), class_="muted")
        rows.append((join([_name(i, name), device]), median, _time(run)))
    shown = table(["Run", "Images per second, median", "Training time"], rows, numbers=(1, 2))
    return join([shown, _panels(runs, speed, lambda *_: "real images in a second")])


def _warnings(runs: Runs) -> Html:
    shown = []
    for i, (name, run) in enumerate(runs):
        lines = run.warnings or []
        says = [tag("li", line) for line in lines[:WARNINGS]]
        if len(lines) > WARNINGS:
            says.append(tag("li", f"And {count(len(lines) - WARNINGS)} more in run.log."))
        none = tag("p", "No run.log." if run.warnings is None else "None.")
        shown += [tag("h3", _name(i, name)), tag("ul", *says) if says else none]
    return join(shown)
