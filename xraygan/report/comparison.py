"""The comparison of several runs as one page: their differences, metrics, images and curves.

Like the report of one run, it reads only the files of the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xraygan.errors import UserError
from xraygan.rundir.reader import ALSO_LOGGED, ByClass, Lacking, RunFiles, Series

from .compared_metrics import metrics_section
from .descriptions import missing, summary, weights_and_audiences
from .differences import Runs, differences, run_name
from .gallery import BESIDE, SOURCES, over_training, table_by_class
from .html import NONE, Html, body, count, document, duration, join, number, panel, table, tag
from .plots import MOST_RUNS, classifier_curves, curve

WARNINGS = 10  # most warnings shown of a run; its log has all

#: entries of environment.json that differ between any two runs and explain nothing
IGNORED = ("started", "command")


def open_runs(directories: Sequence[Path]) -> list[RunFiles]:
    """Open the runs that the user named.

    Raises:
        UserError: one is not a run directory or is named twice, or there are too many for the
            colours and dashes of a page.
    """
    known: dict[Path, Path] = {}
    for directory in directories:
        if (path := directory.resolve()) in known:
            raise UserError(f"{directory}: the same run as {known[path]}; name each run once")
        known[path] = directory
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
        "Metrics": metrics_section(named),
        "Images": _images(named),
        "Losses": _losses(named),
        "Classes": _classes(named),
        "Throughput": _throughput(named),
        "Warnings": _warnings(named),
    }
    # The files that a run lacks are known only after the other sections were made.
    sections = {"Runs": _runs(named), **sections}
    title = f"{len(runs)} runs compared"
    legend = tag("ul", *(tag("li", run_name(i, name)) for i, (name, _) in enumerate(named)))
    page = body([tag("h1", title)], sections, tag("div", legend, class_="legend"))
    return document(f"{', '.join(name for name, _ in named)}: xraygan runs", page)


def _titles(runs: Sequence[RunFiles]) -> list[str]:
    """The names of the runs; if two are the same, the names or the paths of their directories."""
    paths = [run.directory.resolve() for run in runs]
    for names in ([run.name for run in runs], [path.name for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _runs(runs: Runs) -> Html:
    shown = []
    for i, (name, run) in enumerate(runs):
        directory = tag("p", tag("code", run.directory), class_="muted")
        text = tag("p", summary(run), f" Trained for {_time(run)}." if run.seconds else None)
        shown.append(tag("div", tag("h3", run_name(i, name)), directory, text, missing(run)))
    return tag("div", *shown, class_="panels pairs")


def _time(run: RunFiles) -> str:
    return duration(run.seconds) if run.seconds else NONE


# -- differences -----------------------------------------------------------------------------------


def _recipes(runs: Runs) -> Html:
    unread = ", ".join(name for name, run in runs if not run.recipe_text)
    note = f"Without {unread}, whose recipe cannot be read." if unread else None
    recipes = [run.recipe if run.recipe_text else None for _, run in runs]
    environments = [
        {name: value for name, value in run.environment.items() if name not in IGNORED}
        for _, run in runs
    ]
    return join(
        [
            tag("p", note) if note else None,
            differences(runs, recipes, "keys of the recipes"),
            tag("h3", "Environment"),
            differences(runs, [environment or None for environment in environments], "entries"),
        ]
    )


# -- metrics ---------------------------------------------------------------------------------------


# -- images and curves -----------------------------------------------------------------------------


def _images(runs: Runs) -> Html:
    generating = [(run_name(i, name), name, run) for i, (name, run) in enumerate(runs) if run.grids]
    if not generating:
        return tag("p", "None of the runs has generated images.")
    reals: dict[bytes, tuple[list[str], Any]] = {}
    for _, name, run in generating:
        if run.real:
            reals.setdefault(run.real.tobytes(), ([], run.real))[0].append(name)
    shared = len(reals) == 1
    shown = [
        ("from the training split" + ("" if shared else f" of {', '.join(names)}"), picture)
        for names, picture in reals.values()
    ]
    return join([over_training(generating, shown), tag("h3", "By class"), _by_class(runs)])


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
            notes.append(f"{name} is not shown by class: {lacking}.")
            continue
        if not columns:
            columns.append((f"Real, of {name}", images, "real"))
        columns.append((f"{name}, step {count(step)}", images, "generated"))
        notes.append(SOURCES[images.source])
    lines = [tag("p", note, class_="muted") for note in dict.fromkeys(notes) if note]
    return join([*lines, table_by_class(columns) if columns else None])


def _losses(runs: Runs) -> Html:
    def terms(run: RunFiles) -> Series:
        values = run.series(lambda line: line.get("terms"))
        order = (*weights_and_audiences(run.recipe), *values)
        return {name: values[name] for name in order if name in values}

    shown = [_panels(runs, terms, _weights)]
    for title, values in ALSO_LOGGED.items():
        drawn = _panels(runs, lambda run, values=values: run.series(values))  # type: ignore[misc]
        if drawn is not None:
            shown += [tag("h3", title), drawn]
    return join(shown) if shown[0] is not None else tag("p", "None of the runs has logged a line.")


def _weights(runs: Runs, name: str) -> str:
    """The weight of a term in each run; a single one if all are the same."""
    weights = []
    for _, run in runs:
        detail = weights_and_audiences(run.recipe).get(name, "")
        weights.append(next((w for w in detail.split(" · ") if w.startswith("weight ")), NONE))
    if len(set(weights)) == 1:
        return weights[0].replace(NONE, "")
    return "weight " + ", ".join(w.removeprefix("weight ") for w in weights)


def _panels(
    runs: Runs,
    series: Callable[[RunFiles], Series],
    detail: Callable[[Runs, str], str] = lambda runs, name: "",
) -> Html | None:
    """A panel for each value over training, with a line for each run; None without values."""
    all_values = [series(run) for _, run in runs]
    empty = (np.empty(0), np.empty(0))
    panels = []
    for name in dict.fromkeys(name for values in all_values for name in values):
        lines = [values.get(name, empty) for values in all_values]
        drawn = tag("small", "no value")
        if any(np.isfinite(values).any() for _, values in lines):
            drawn = curve(lines, f"{name} over training, a line a run")
        panels.append(panel(name, detail(runs, name), drawn))
    return tag("div", *panels, class_="panels") if panels else None


def _classes(runs: Runs) -> Html:
    curves = [{name: (truth, probs) for name, truth, probs in run.curves()[0]} for _, run in runs]
    names = dict.fromkeys(name for by_name in curves for name in by_name)
    if not names:
        return tag("p", "None of the runs has predictions to draw ROC curves of.")
    panels = [
        panel(
            name,
            "",
            classifier_curves(
                [by_name.get(name) for by_name in curves],
                f"ROC and precision-recall curves of {name}",
            ),
        )
        for name in names
    ]
    kinds = " and ".join(dict.fromkeys(run.kind for _, run in runs))
    text = f"ROC and precision-recall curves on {kinds} images; thin and dashed: guessing."
    return join([tag("p", text), tag("div", *panels, class_="panels pairs")])


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
        rows.append((join([run_name(i, name), device]), median, _time(run)))
    shown = table(["Run", "Images per second, median", "Training time"], rows, numbers=(1, 2))
    return join([shown, _panels(runs, speed, lambda *_: "real images in a second")])


def _warnings(runs: Runs) -> Html:
    shown = []
    for i, (name, run) in enumerate(runs):
        lines = run.warnings or []
        items = [tag("li", line) for line in lines[:WARNINGS]]
        if len(lines) > WARNINGS:
            items.append(tag("li", f"And {count(len(lines) - WARNINGS)} more in run.log."))
        none = tag("p", "No run.log." if run.warnings is None else "None.")
        shown += [tag("h3", run_name(i, name)), tag("ul", *items) if items else none]
    return join(shown)
