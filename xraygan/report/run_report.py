"""A run directory as one page that stands alone: ``report.html``.

It reads files and nothing else: it knows of no data, no network and no plugin. A file that is not
there, because the run has no such part or did not get so far, is named in the report.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from xraygan.rundir.completion import unmeasured
from xraygan.rundir.file_schemas import cautions
from xraygan.rundir.reader import ALSO_LOGGED, Lacking, RunFiles, Series

from .gallery import BESIDE, SOURCES, by_class, over_training
from .html import (
    NONE,
    Html,
    body,
    count,
    document,
    duration,
    facts,
    join,
    number,
    panel,
    plain,
    scrolling,
    table,
    tag,
    write_page,
)
from .plots import classifier_curves, curve

# Plain names of figures, and how to read them.
METRICS = {
    "auc": ("Area under the ROC curve (AUC)", "1 is perfect, 0.5 is guessing"),
    "accuracy": ("Accuracy", "share of decisions that are right"),
    "precision": ("Precision", "share of the images called positive that are"),
    "recall": ("Recall (sensitivity)", "share of the positive images that are found"),
    "confusion_matrix": ("Confusion matrix", "drawn under Classes"),
    "frechet_classifier": ("Fréchet distance in the classifier's features", "0 if identical"),
    "fid": ("Fréchet inception distance (FID)", "0 if identical"),
    "inception_score_classifier": ("Inception score", "from 1 to the number of classes"),
    "kid": ("Kernel distance (KID)", "0 if identical"),
    "ms_ssim": ("MS-SSIM of random pairs", "1 for the same image; compare with real pairs"),
    "ece": ("Expected calibration error", "0 if probabilities can be taken at their word"),
    "brier": ("Brier score", "0 is perfect"),
    "cas": ("Classifier trained on generated images alone (CAS)", "as on real ones at best"),
    "copies": ("Flagged as copies of training images", "about 0.01 by chance"),
}

VERSIONS = {"xraygan": "xraygan", "PyTorch": "torch", "Python": "python"}
WARNINGS = 50  # shown at most; the log has them all

# The terms that a recipe does not name itself.
TERMS = {
    "generator": "adversarial",
    "discriminator": "adversarial",
    "classification": "on real images",
    "pseudo_label": "on generated images",
    "weighted_total": "all terms times their weights",
}


def write_report(run_directory: Path) -> Path:
    """Write ``report.html`` into a run directory, in place of one that is there.

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
        "Images": _images(run),
        "Losses": _losses(run),
        "Classes": _classes(run),
        "Throughput": _throughput(run),
        "Warnings": _warnings(run),
        "Recipe": _recipe(run),
        "Environment": _environment(run),
    }
    about = [tag("p", summary(run)), missing(run), _facts(run), _command(run)]
    return body([tag("h1", run.name), *about], sections)


# -- what was run ----------------------------------------------------------------------------------


def summary(run: RunFiles) -> str:
    """What was run on what, without a verdict."""
    last = next((line for line in reversed(run.lines) if line.get("progress")), {})
    steps, total = last.get("step", 0), run.recipe.get("run", {}).get("steps")
    if last:
        total = round(steps / last["progress"])  # known where the recipe counts in epochs, too
    text = f"{count(steps)} of {count(total)} steps" if total else f"{count(steps)} steps"
    if (seed := run.environment.get("seed", run.recipe.get("run", {}).get("seed"))) is not None:
        text += f" with seed {seed}"
    data = run.environment.get("dataset", {})
    if name := data.get("plugin", run.recipe.get("data", {}).get("plugin")):
        text += f" on {name}"
    splits = [
        f"{count(images)} {split} images of {count(data.get('patients', {}).get(split))} patients"
        for split, images in data.get("images", {}).items()
        if images
    ]
    text += f": {', '.join(splits)}. " if splits else ". "
    if "step" in run.evaluation:
        text += f"Evaluated at step {count(run.evaluation['step'])}."
    else:
        text += "Not evaluated."
    left = unmeasured(run.directory)
    return text + (f" Not finished: it lacks {', '.join(left)}." if left else "")


def missing(run: RunFiles) -> Html | None:
    """A notice of the files that are absent or damaged, if there are any."""
    if not run.missing:
        return None
    files = tag("ul", *(tag("li", name) for name in run.missing))
    says = "Missing from the run directory, and so from this report:"
    return tag("div", says, files, class_="notice")


def absent(file: str, why: str = "") -> Html:
    """What a section says for want of a file."""
    return tag("p", "Nothing to show: ", tag("code", file), " is missing or empty", why, ".")


def _facts(run: RunFiles) -> Html:
    words, place = run.recipe.get("run", {}), run.environment
    size = run.recipe.get("data", {}).get("image_size")
    versions = [f"{name} {place[key]}" for name, key in VERSIONS.items() if place.get(key)]
    found = {
        "Seed": place.get("seed", words.get("seed")),
        "Batch size": words.get("batch_size"),
        "Image size": f"{size} x {size} pixels" if size else None,
        "Device": place.get("device", words.get("device")),
        "Precision": words.get("precision"),
        "Started": str(place.get("started", "")).replace("T", " ")[:16] or None,
        "Training time": duration(run.seconds) if run.seconds else None,
        "Versions": ", ".join(versions) or None,
    }
    return facts((name, value) for name, value in found.items() if value is not None)


def _command(run: RunFiles) -> Html | None:
    """What was typed."""
    words = run.environment.get("command", [])[1:]
    if not words:
        return None
    shown = [tag("span", word) for word in ("xraygan", *map(shlex.quote, words))]
    return tag("pre", *(part for word in shown for part in (word, " ")), class_="command")


def _data(run: RunFiles) -> Html:
    data, words = run.environment.get("dataset"), run.recipe.get("data", {})
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
    several = words.get("label_policy") == "multi"
    about = {
        "Labels of an image": words and ("any number" if several else "exactly one"),
        "Folder": words.get("root"),
        "Known of training images": "; ".join(f"{n}: {count(k)}" for n, k in known.items()),
        "Left out": left_out,
        "Notes": " ".join(data.get("notes", [])),
        "Fingerprint": data.get("fingerprint"),
    }
    counted = table(["", *images], rows, numbers=range(1, len(images) + 1))
    words_ = [(name, plain(value)) for name, value in about.items() if value]
    return tag("div", counted, table([], words_, style="values"), class_="panels pairs level")


# -- metrics ---------------------------------------------------------------------------------------


def _metrics(run: RunFiles) -> Html:
    if not run.evaluation:
        return absent("evaluation.json", ", for the run goes on or was interrupted")
    failed = [tag("p", f"Not measured: {why}") for why in run.evaluation.get("failed", {}).values()]
    if not run.evaluation.get("metrics"):
        return join(failed) if failed else tag("p", "The recipe names no metric.")
    groups: dict[str, dict[str, Any]] = {}
    for name, measurement in run.evaluation["metrics"].items():
        groups.setdefault(name.partition("/")[0], {})[name] = measurement
    single: list[Sequence[object]] = []
    grouped: list[Sequence[object]] = []
    for base, members in groups.items():
        title, meaning = METRICS.get(base, (base.replace("_", " ").capitalize(), ""))
        about = join([title, tag("div", tag("code", base), f" {meaning}", class_="muted")])
        if list(members) == [base]:
            single.append((about, *_measured(members[base])))
            continue
        grouped.append((about,))
        for name, measurement in members.items():
            prefix, slash, each = name.partition("/")
            grouped.append((join([tag("small", prefix + slash), each]), *_measured(measurement)))
    share = f"{run.evaluation.get('protocol', {}).get('confidence', 0.95) * 100:g} %"
    head = ["Metric", "Value", f"{share} interval", "n", "Note"]
    measured = table(head, single + grouped, numbers=(1, 2, 3), style="wide metrics")
    return join([*failed, tag("p", protocol(run)), measured])


def _measured(measurement: Mapping[str, Any]) -> tuple[object, ...]:
    """A measurement's cells: value, interval, n, note."""
    value, interval = measurement.get("value"), measurement.get("interval")
    shown: object = number(value)
    if isinstance(value, list):
        rows = [row if isinstance(row, list) else [row] for row in value]
        lines = [" ".join(f"{number(cell):>6}" for cell in row) for row in rows]
        shown = tag("details", tag("summary", "show"), tag("pre", "\n".join(lines)))
    bounds = f"{number(interval[0])} to {number(interval[1])}" if interval else NONE
    return shown, bounds, count(measurement.get("n")), measurement.get("note") or ""


def protocol(run: RunFiles) -> str:
    """What the metrics were measured on, and how."""
    words = run.evaluation.get("protocol", {})
    made = words.get("generated")
    text = (
        f"Measured at step {count(run.evaluation.get('step'))} on {count(words.get('images'))} "
        f"{run.kind} images of {count(words.get('patients'))} patients"
        + (f" and {count(made)} generated images. " if made else ". ")
    )
    if words.get("bootstrap"):
        text += (
            f"Intervals are over {words.get('unit', 'image')}s, from "
            f"{count(words['bootstrap'])} bootstrap resamples, unless a note says otherwise. They "
            "hold this run's seed fixed: another seed trains another network. "
        )
    text += "".join(f"{caution} " for caution in cautions(words))
    return text + "n counts the images that a value was measured on."


# -- images and curves -----------------------------------------------------------------------------


def _images(run: RunFiles) -> Html:
    if not run.has("generator"):
        return tag("p", "This run has no generator, and so no generated images.")
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
        return tag("p", f"Not shown by class, for {lacking}.")
    columns = [("Real", images, "real"), (f"Generated, step {count(step)}", images, "generated")]
    return join([tag("p", SOURCES[images.source], class_="muted"), by_class(columns)])


def _losses(run: RunFiles) -> Html:
    terms = run.series(lambda line: line.get("terms"))
    terms |= run.series(lambda line: _one(line, "weighted_total"))
    if not terms:
        return absent("metrics.jsonl")
    about = weights_and_audiences(run.recipe)
    terms = {name: terms[name] for name in (*about, *terms) if name in terms}
    shown = [_panels(terms, lambda name: about.get(name, TERMS.get(name, "")))]
    for title, values in ALSO_LOGGED.items():
        if found := run.series(values):
            shown += [tag("h3", title), _panels(found, lambda name: "")]
    return join(shown)


def weights_and_audiences(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Each term's kind, weight and audience, as the recipe has them."""
    adversarial = ("generator", "discriminator") if "objective" in recipe else ()
    tables = {name: name for name in adversarial}
    tables |= {"classification": "classifier", "pseudo_label": "labeler"}
    words = {term: recipe[name] for term, name in tables.items() if name in recipe}
    found = {}
    for term, table_ in (words | recipe.get("scores", {})).items():
        own = tables.get(term, "as the score declares")
        trains = ", ".join(table_.get("trains", [own]))
        parts = [TERMS.get(term), f"weight {table_.get('weight', 1):g}", f"trains {trains}"]
        found[term] = " · ".join(filter(None, parts))
    return found


def _one(line: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
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
    speed = run.series(lambda line: _one(line, "images_per_second"))
    if not speed:
        return absent("metrics.jsonl")
    ((_, values),) = speed.values()
    median = tag("p", f"Median: {number(float(np.nanmedian(values)))} real images per second.")
    return join([median, _panels(speed, lambda name: "real images in a second")])


# -- the classifier --------------------------------------------------------------------------------


def _classes(run: RunFiles) -> Html:
    if not run.has("classifier"):
        return tag("p", "This run has no classifier.")
    if not run.predictions:
        return absent("predictions.csv")
    panels = []
    curves, left = run.curves()
    for name, truth, probs in curves:
        areas = f"AUC {roc_auc_score(truth, probs):.3f} · average precision "
        areas += f"{average_precision_score(truth, probs):.3f} · "
        areas += f"{count(int(truth.sum()))} of {count(len(truth))} images positive"
        drawn = classifier_curves([(truth, probs)], f"ROC and precision-recall curve of {name}")
        panels.append(panel(name, areas, drawn))
    skipped = [tag("li", f"{name}: no curves, for {why}") for name, why in left.items()]
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
    """Truth against the most probable class, where every image has exactly one."""
    try:
        counts = run.confusion()
    except Lacking as lacking:
        return tag("p", f"There is none, for {lacking}.")
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
    left = len(run.warnings) - WARNINGS
    return join(
        [
            tag("ul", *(tag("li", line) for line in run.warnings[:WARNINGS])),
            tag("p", f"And {count(left)} more in ", tag("code", "run.log"), ".")
            if left > 0
            else None,
        ]
    )


def _recipe(run: RunFiles) -> Html:
    if not run.recipe_text:
        return absent("recipe.toml")
    summary = tag("summary", "The resolved recipe, every default included")
    return tag("details", summary, tag("pre", run.recipe_text), class_="printed")


def _environment(run: RunFiles) -> Html:
    if not run.environment:
        return absent("environment.json")
    own = ("dataset", "command", "finished")  # they have their own places
    rest = {name: value for name, value in run.environment.items() if name not in own}
    parts = rest.pop("plugins", None)
    shown = facts((name, plain(value)) for name, value in rest.items())
    if not isinstance(parts, dict):
        return shown
    lines = [tag("li", tag("code", name), f" {plain(part)}") for name, part in parts.items()]
    return join([shown, tag("h3", "Plugins"), tag("ul", *lines, class_="columns")])
