"""The report of a run as one self-contained page, ``report.html``.

It reads only the files of the run: no data, networks or plugins. The report names each file that is
missing, because the run has no such part or was interrupted before.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from xraygan.rundir.reader import ALSO_LOGGED, Lacking, RunFiles, Series
from xraygan.utils.naming import subgroup_figure

from .descriptions import (
    TERMS,
    absent,
    missing,
    protocol,
    summary,
    weights_and_audiences,
)
from .external import external_section
from .gallery import BESIDE, SOURCES, over_training, table_by_class
from .html import (
    Html,
    body,
    count,
    document,
    duration,
    facts,
    join,
    number,
    one_line,
    panel,
    scrolling,
    table,
    tag,
    write_page,
)
from .metric_table import metric_table
from .plots import classifier_curves, curve
from .subgroups import subgroup_tables

VERSIONS = {"xraygan": "xraygan", "PyTorch": "torch", "Python": "python"}
WARNINGS = 50  # most warnings shown; the log has all


def write_report(run_directory: Path) -> Path:
    """Write ``report.html`` into a run directory, in place of an earlier one.

    Returns:
        The path of the report.

    Raises:
        UserError: the directory holds no file of a run, or cannot be written.
    """
    return write_page(
        run_directory / "report.html", report(RunFiles(run_directory)), overwrite=True
    )


def report(run: RunFiles) -> str:
    """The report of a run, as a whole page."""
    return document(f"{run.name}: xraygan run", _page(run))


def _page(run: RunFiles) -> Html:
    sections = {
        "Data": _data(run),
        "Metrics": _metrics(run),
        **_subgroups(run),
        **external_section(run),
        "Images": _images(run),
        "Losses": _losses(run),
        "Classes": _classes(run),
        "Throughput": _throughput(run),
        "Warnings": _warnings(run),
        "Recipe": _recipe(run),
        "Environment": _environment(run),
    }
    header = [tag("h1", run.name), tag("p", summary(run))]
    return body([*header, missing(run), _facts(run), _command(run)], sections)


# -- the run and its data --------------------------------------------------------------------------


def _facts(run: RunFiles) -> Html:
    options, environment = run.recipe.get("run", {}), run.environment
    size = run.recipe.get("data", {}).get("image_size")
    versions = [
        f"{name} {environment[key]}" for name, key in VERSIONS.items() if environment.get(key)
    ]
    values = {
        "Seed": environment.get("seed", options.get("seed")),
        "Batch size": options.get("batch_size"),
        "Image size": f"{size} x {size} pixels" if size else None,
        "Device": environment.get("device", options.get("device")),
        "Precision": options.get("precision"),
        "Started": str(environment.get("started", "")).replace("T", " ")[:16] or None,
        "Training time": duration(run.seconds) if run.seconds else None,
        "Versions": ", ".join(versions) or None,
    }
    return facts((name, value) for name, value in values.items() if value is not None)


def _command(run: RunFiles) -> Html | None:
    """The command that started the run."""
    arguments = run.environment.get("command", [])[1:]
    if not arguments:
        return None
    spans = [tag("span", argument) for argument in ("xraygan", *map(shlex.quote, arguments))]
    return tag("pre", *(part for span in spans for part in (span, " ")), class_="command")


def _data(run: RunFiles) -> Html:
    data, options = run.environment.get("dataset"), run.recipe.get("data", {})
    if not data:
        return absent("environment.json")
    images, patients, classes = (data.get(key, {}) for key in ("images", "patients", "classes"))
    images = {split: n for split, n in images.items() if n}
    names = dict.fromkeys(name for split in images for name in classes.get(split, {}))
    rows: list[Sequence[object]] = [
        ("Images", *(count(images[split]) for split in images)),
        ("Patients", *(count(patients.get(split)) for split in images)),
        ("Images of each class",),
        *((name, *(count(classes.get(s, {}).get(name)) for s in images)) for name in names),
    ]
    skipped, known = data.get("skipped"), data.get("metadata", {})
    left_out = "; ".join(f"{name}: {count(n)}" for name, n in data.get("left_out", {}).items())
    if skipped and not data.get("left_out"):  # as former versions wrote it
        left_out = f"{count(len(skipped))} unreadable images"
    several = options.get("label_policy") == "multi"
    values = {
        "Labels of an image": options and ("any number" if several else "exactly one"),
        "Folder": options.get("root"),
        "Training images with metadata": "; ".join(f"{n}: {count(k)}" for n, k in known.items()),
        "Left out": left_out,
        "Notes": " ".join(data.get("notes", [])),
        "Fingerprint": data.get("fingerprint"),
    }
    counted = table(["", *images], rows, numbers=range(1, len(images) + 1))
    entries = [(name, one_line(value)) for name, value in values.items() if value]
    return tag("div", counted, table([], entries, style="values"), class_="panels pairs level")


# -- metrics ---------------------------------------------------------------------------------------


def _metrics(run: RunFiles) -> Html:
    if not run.evaluation:
        return absent("evaluation.json", ", since the run is still training or was interrupted")
    failed = [tag("p", f"Not measured: {why}") for why in run.evaluation.get("failed", {}).values()]
    if not run.evaluation.get("metrics"):
        return join(failed) if failed else tag("p", "The recipe names no metric.")
    return join([*failed, tag("p", protocol(run)), metric_table(run.evaluation)])


def _subgroups(run: RunFiles) -> dict[str, Html]:
    tables = subgroup_tables(run.evaluation.get("metrics", {}))
    return {} if tables is None else {"Subgroups": tables}


# -- images and curves -----------------------------------------------------------------------------


def _images(run: RunFiles) -> Html:
    if not run.has("generator"):
        return tag("p", "This run has no generator, so it has no generated images.")
    if not run.grids and not run.real:
        return absent("samples/")
    reals = [("from the training split", run.real)] if run.real else []
    return join(
        [over_training([("Generated", "", run)], reals), tag("h3", "By class"), _by_class(run)]
    )


def _by_class(run: RunFiles) -> Html:
    try:
        step, _ = run.last_samples()
        images = run.by_class(step, BESIDE)
    except Lacking as lacking:
        return tag("p", f"Not shown by class: {lacking}.")
    columns = [("Real", images, "real"), (f"Generated, step {count(step)}", images, "generated")]
    return join([tag("p", SOURCES[images.source], class_="muted"), table_by_class(columns)])


def _losses(run: RunFiles) -> Html:
    terms = run.series(lambda line: line.get("terms"))
    terms |= run.series(lambda line: _entry(line, "weighted_total"))
    if not terms:
        return absent("metrics.jsonl")
    details = weights_and_audiences(run.recipe)
    terms = {name: terms[name] for name in (*details, *terms) if name in terms}
    shown = [_panels(terms, lambda name: details.get(name, TERMS.get(name, "")))]
    for title, select in ALSO_LOGGED.items():
        series = run.series(select)
        if series := {name: one for name, one in series.items() if not subgroup_figure(name)}:
            shown += [tag("h3", title), _panels(series, lambda name: "")]
    return join(shown)


def _entry(line: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    return {key: line[key]} if key in line else None


def _panels(series: Series, detail: Callable[[str], str]) -> Html:
    figures = []
    for name, (steps, values) in series.items():
        drawn = tag("small", "no value")
        if np.isfinite(values).any():
            drawn = curve([(steps, values)], f"{name} over training")
        figures.append(panel(name, detail(name), drawn))
    return tag("div", *figures, class_="panels")


def _throughput(run: RunFiles) -> Html:
    speed = run.series(lambda line: _entry(line, "images_per_second"))
    if not speed:
        return absent("metrics.jsonl")
    ((_, values),) = speed.values()
    median = tag("p", f"Median: {number(float(np.nanmedian(values)))} real images per second.")
    return join([median, _panels(speed, lambda name: "real images per second")])


# -- the classifier --------------------------------------------------------------------------------


def _classes(run: RunFiles) -> Html:
    if not run.has("classifier"):
        return tag("p", "This run has no classifier.")
    if not run.predictions:
        return absent("predictions.csv")
    panels = []
    curves, reasons = run.curves()
    for name, truth, probs in curves:
        areas = f"AUC {roc_auc_score(truth, probs):.3f} · average precision "
        areas += f"{average_precision_score(truth, probs):.3f} · "
        areas += f"{count(int(truth.sum()))} of {count(len(truth))} images positive"
        drawn = classifier_curves([(truth, probs)], f"ROC and precision-recall curve of {name}")
        panels.append(panel(name, areas, drawn))
    skipped = [tag("li", f"{name}: no curves: {reason}") for name, reason in reasons.items()]
    return join(
        [
            tag("p", f"ROC and precision-recall curves on {run.kind} images; dashed: guessing."),
            tag("div", *panels, class_="panels pairs"),
            tag("ul", *skipped) if skipped else None,
            tag("h3", "Confusion matrix"),
            _confusion(run),
        ]
    )


def _confusion(run: RunFiles) -> Html:
    """The confusion matrix, if every image has exactly one class."""
    try:
        counts = run.confusion()
    except Lacking as lacking:
        return tag("p", f"There is none: {lacking}.")
    names = [name for name, _, _ in run.predictions or []]
    rows = [
        tag("tr", tag("th", name, scope="row"), *(_shaded(c, row.sum()) for c in row))
        for name, row in zip(names, counts, strict=True)
    ]
    head = tag("tr", tag("th", ""), *(tag("th", name, scope="col") for name in names))
    note = "Rows: the true class. Columns: the most probable class. Shade: share of the row."
    matrix = tag("table", tag("thead", head), tag("tbody", *rows))
    return join([tag("p", note), scrolling(matrix, "matrix")])


def _shaded(images: int, total: int) -> Html:
    return tag("td", count(images), style=f"--share: {images / max(total, 1):.3f}")


# -- how it was run --------------------------------------------------------------------------------


def _warnings(run: RunFiles) -> Html:
    if run.warnings is None:
        return absent("run.log")
    if not run.warnings:
        return tag("p", "None in ", tag("code", "run.log"), ".")
    hidden = len(run.warnings) - WARNINGS
    return join(
        [
            tag("ul", *(tag("li", line) for line in run.warnings[:WARNINGS])),
            tag("p", f"And {count(hidden)} more in ", tag("code", "run.log"), ".")
            if hidden > 0
            else None,
        ]
    )


def _recipe(run: RunFiles) -> Html:
    if not run.recipe_text:
        return absent("recipe.toml")
    title = tag("summary", "The resolved recipe, with every default")
    return tag("details", title, tag("pre", run.recipe_text), class_="printed")


def _environment(run: RunFiles) -> Html:
    if not run.environment:
        return absent("environment.json")
    elsewhere = ("dataset", "command", "finished")  # other sections show them
    entries = {name: value for name, value in run.environment.items() if name not in elsewhere}
    parts = entries.pop("plugins", None)
    shown = facts((name, one_line(value)) for name, value in entries.items())
    if not isinstance(parts, dict):
        return shown
    lines = [tag("li", tag("code", name), f" {one_line(part)}") for name, part in parts.items()]
    return join([shown, tag("h3", "Plugins"), tag("ul", *lines, class_="columns")])
