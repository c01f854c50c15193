"""A run directory as one page that stands alone: ``report.html``.

It reads files and nothing else: it knows of no data, no network and no plugin. A file that is not
there, because the run has no such part or did not get so far, is named in the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from .errors import UserError
from .figures import classifier_curves, curve
from .page import Html, document, facts, join, panel, scrolling, table, tag
from .runfiles import RunFiles

# Plain names of figures, and how to read them.
METRICS = {
    "auc": ("Area under the ROC curve (AUC)", "1 is perfect, 0.5 is guessing"),
    "average_precision": ("Average precision", "1 is perfect, the share of positives is guessing"),
    "accuracy": ("Accuracy", "share of images whose class is right"),
    "balanced_accuracy": ("Balanced accuracy", "accuracy where every class counts the same"),
    "sensitivity": ("Sensitivity", "share of the positives that is found"),
    "specificity": ("Specificity", "share of the negatives that is found"),
    "confusion_matrix": ("Confusion matrix", "drawn under Classes"),
    "frechet_classifier": ("Fréchet distance in the classifier's features", "0 if identical"),
    "fid": ("Fréchet inception distance (FID)", "0 if identical"),
    "kid": ("Kernel inception distance (KID)", "0 if identical"),
    "inception_score": ("Inception score", "from 1 to the number of classes"),
}

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
    run = RunFiles(run_directory)
    page = document(f"{run.name} – xraygan", _page(run))
    path = run_directory / "report.html"
    building = path.with_name(f".{path.name}.building")
    try:
        building.write_text(page, encoding="utf-8")
        os.replace(building, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return path


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
    header = tag("header", tag("h1", run.name), tag("p", _summary(run)), _missing(run), _facts(run))
    links = [tag("a", title, href=f"#{title.lower()}") for title in sections]
    main = [
        tag("section", tag("h2", title), content, id=title.lower())
        for title, content in sections.items()
    ]
    footer = tag("footer", "Research software, not a diagnostic device.")
    return join([header, tag("nav", *links), tag("main", *main), footer])


# -- what was run ----------------------------------------------------------------------------------


def _summary(run: RunFiles) -> str:
    """What was run on what, without a verdict."""
    last = run.lines[-1] if run.lines else {}
    steps, progress = last.get("step", 0), last.get("progress")
    total = round(steps / progress) if progress else run.recipe.get("run", {}).get("steps")
    text = f"{_count(steps)} of {_count(total)} steps" if total else f"{_count(steps)} steps"
    data = run.environment.get("dataset", {})
    if name := data.get("plugin", run.recipe.get("data", {}).get("plugin")):
        text += f" on {name}"
    splits = [
        f"{_count(images)} {split} images of {_count(data.get('patients', {}).get(split))} patients"
        for split, images in data.get("images", {}).items()
        if images
    ]
    text += f": {', '.join(splits)}. " if splits else ". "
    if "step" in run.evaluation:
        return text + f"Evaluated at step {_count(run.evaluation['step'])}."
    return text + "Not evaluated."


def _missing(run: RunFiles) -> Html | None:
    if not run.missing:
        return None
    files = tag("ul", *(tag("li", name) for name in run.missing))
    says = "Missing from the run directory, and so from this report:"
    return tag("div", says, files, class_="notice")


def _absent(file: str, what: str) -> Html:
    """What a section says for want of a file."""
    return tag("p", "Without ", tag("code", file), f" there is nothing to say about {what}.")


def _facts(run: RunFiles) -> Html:
    words, place = run.recipe.get("run", {}), run.environment
    size = run.recipe.get("data", {}).get("image_size")
    found = {
        "Seed": words.get("seed", place.get("seed")),
        "Batch size": words.get("batch_size"),
        "Image size": f"{size} × {size} pixels" if size else None,
        "Device": place.get("device", words.get("device")),
        "Precision": words.get("precision"),
        "Started": str(place.get("started", "")).replace("T", " ")[:16] or None,
        "Training time": _duration(run.seconds) if run.seconds else None,
    }
    return facts((name, value) for name, value in found.items() if value is not None)


def _data(run: RunFiles) -> Html:
    data, words = run.environment.get("dataset"), run.recipe.get("data", {})
    if not data:
        return _absent("environment.json", "how many images and patients there were")
    images, patients, classes = (data.get(key, {}) for key in ("images", "patients", "classes"))
    names = dict.fromkeys(name for split in images for name in classes.get(split, {}))
    rows: list[Sequence[object]] = [
        ("Images", *(_count(images[split]) for split in images)),
        ("Patients", *(_count(patients.get(split)) for split in images)),
        ("Images of each class",),
        *((name, *(_count(classes.get(s, {}).get(name)) for s in images)) for name in names),
    ]
    several = words.get("label_policy") == "multi"
    about = {
        "Labels of an image": words and ("any number" if several else "exactly one"),
        "Folder": words.get("root"),
        "Left out as unreadable": data.get("skipped"),
        "Fingerprint": data.get("fingerprint"),
    }
    return join(
        [
            table(["", *images], rows, numbers=range(1, len(images) + 1)),
            table([], [(name, _plain(value)) for name, value in about.items() if value]),
        ]
    )


# -- metrics ---------------------------------------------------------------------------------------


def _metrics(run: RunFiles) -> Html:
    if not run.evaluation:
        return _absent("evaluation.json", "metrics: the run was interrupted, or still goes on")
    rows: list[Sequence[object]] = []
    measured = run.evaluation.get("metrics", {}).items()
    for base, members in groupby(measured, lambda item: item[0].partition("/")[0]):
        plain, meaning = METRICS.get(base, (_spelled(base), ""))
        about = tag("div", tag("code", base), f" {meaning}", class_="muted")
        found = dict(members)
        if list(found) == [base]:
            rows.append((join([plain, about]), *_measured(found[base])))
            continue
        rows.append((join([plain, about]),))
        for name, figure in found.items():
            each = tag("div", tag("code", name), class_="muted")
            rows.append((join([name.partition("/")[2] or "all", each]), *_measured(figure)))
    share = f"{run.evaluation.get('protocol', {}).get('confidence', 0.95) * 100:g} %"
    head = ["Metric", "Value", f"{share} interval", "n", "Note"]
    return join([tag("p", _protocol(run)), table(head, rows, numbers=(1, 2, 3), wide=True)])


def _measured(figure: Mapping[str, Any]) -> tuple[object, ...]:
    """A measurement's cells: value, interval, n, note."""
    value, interval = figure.get("value"), figure.get("interval")
    shown: object = _number(value)
    if isinstance(value, list):
        lines = [" ".join(map(_number, row if isinstance(row, list) else [row])) for row in value]
        shown = tag("details", tag("summary", "show"), tag("pre", "\n".join(lines)))
    bounds = f"{_number(interval[0])} – {_number(interval[1])}" if interval else "–"
    return shown, bounds, _count(figure.get("n")), figure.get("note") or ""


def _protocol(run: RunFiles) -> str:
    words = run.evaluation.get("protocol", {})
    made = words.get("generated")
    text = (
        f"Measured at step {_count(run.evaluation.get('step'))} on {_count(words.get('images'))} "
        f"{words.get('split', '')} images of {_count(words.get('patients'))} patients"
        + (f" and {_count(made)} generated images. " if made else ". ")
    )
    if words.get("bootstrap"):
        text += (
            f"Intervals come from {_count(words['bootstrap'])} bootstrap resamples; real images "
            f"are resampled by {words.get('unit', 'image')}. "
        )
    return text + "n counts the images that a value was measured on."


# -- images and curves -----------------------------------------------------------------------------


def _images(run: RunFiles) -> Html:
    if not run.has("generator"):
        return tag("p", "This run has no generator, and so no generated images.")
    if not run.samples and not run.real:
        return _absent("samples", "what real and generated images look like")
    beside = []
    if run.real:
        image = tag("img", src=run.real, alt="real images")
        beside.append(panel("Real", "from the training split", image))
    if run.samples:
        last = max(run.samples)
        frames = [_frame(step, uri, step != last) for step, uri in run.samples.items()]
        top = len(frames) - 1
        slider = tag("input", type="range", max=top, value=top, aria_label="step of the grid")
        label = tag("label", "first", slider, "last", data_frames="frames", hidden=True)
        few = f"{top + 1} of {run.grids} grids, evenly spread" if top + 1 < run.grids else None
        beside.append(
            tag(
                "div",
                tag("div", *frames, id="frames"),
                label if top else None,
                tag("small", few) if few else None,
            )
        )
    return tag("div", *beside, class_="panels pairs")


def _frame(step: int, uri: str, hidden: bool) -> Html:
    image = tag("img", src=uri, alt=f"generated images at step {step}")
    return tag("div", panel("Generated", f"at step {_count(step)}", image), hidden=hidden)


def _losses(run: RunFiles) -> Html:
    terms = _series(run, lambda line: line.get("terms"))
    terms |= _series(run, lambda line: _one(line, "weighted_total"))
    if not terms:
        return _absent("metrics.jsonl", "losses")
    about = _weights_and_audiences(run.recipe)
    shown = [_panels(terms, lambda name: about.get(name, TERMS.get(name, "")))]
    for title, key in (("Also recorded", "records"), ("During training", "evaluation")):
        if found := _series(run, lambda line, key=key: line.get(key)):  # type: ignore[misc]
            shown += [tag("h3", title), _panels(found, lambda name: "")]
    return join(shown)


def _weights_and_audiences(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Each term's kind, weight and audience, as the recipe has them."""
    tables = {"classification": "classifier", "pseudo_label": "labeler"}
    if "objective" in recipe:
        tables |= {"generator": "generator", "discriminator": "discriminator"}
    words = {term: recipe[name] for term, name in tables.items() if name in recipe}
    found = {}
    for term, table_ in (words | recipe.get("scores", {})).items():
        own = tables.get(term, "networks of the score's choice")
        trains = ", ".join(table_.get("trains", [own]))
        parts = [TERMS.get(term), f"weight {table_.get('weight', 1):g}", f"trains {trains}"]
        found[term] = " · ".join(filter(None, parts))
    return found


Series = dict[str, tuple[np.ndarray, np.ndarray]]


def _series(run: RunFiles, pick: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]) -> Series:
    """Named values of the logged lines: name -> steps and values ``(N,)``, NaN where there is none.

    ``pick`` takes the values out of a line, None where it holds no such values.
    """
    lines = [(line["step"], values) for line in run.lines if (values := pick(line)) is not None]
    steps = np.array([step for step, _ in lines], dtype=float)
    names = dict.fromkeys(name for _, values in lines for name in values)
    return {
        # dtype=float makes NaN of None
        name: (steps, np.array([values.get(name) for _, values in lines], dtype=float))
        for name in names
    }


def _one(line: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    return {key: line[key]} if key in line else None


def _panels(series: Series, detail: Callable[[str], str]) -> Html:
    figures = []
    for name, (steps, values) in series.items():
        drawn = tag("small", "never evaluated")
        if np.isfinite(values).any():
            drawn = curve(steps, values, f"{name} over training")
        figures.append(panel(name, detail(name), drawn))
    return tag("div", *figures, class_="panels")


def _throughput(run: RunFiles) -> Html:
    speed = _series(run, lambda line: _one(line, "images_per_second"))
    if not speed:
        return _absent("metrics.jsonl", "speed")
    ((_, values),) = speed.values()
    median = tag("p", f"Median: {_number(float(np.nanmedian(values)))} real images per second.")
    return join([median, _panels(speed, lambda name: "real images in a second")])


# -- the classifier --------------------------------------------------------------------------------


def _classes(run: RunFiles) -> Html:
    if not run.has("classifier"):
        return tag("p", "This run has no classifier.")
    if run.predictions is None:
        return _absent("predictions.csv", "single classes")
    panels, skipped = [], []
    for name, truth, probs in run.predictions:
        positives, n = int(truth.sum()), len(truth)
        share = f"{_count(positives)} of {_count(n)} images positive"
        if not np.isfinite(probs).all():
            skipped.append(f"{name}: no curves, for not all probabilities are numbers")
        elif positives in (0, n):
            skipped.append(f"{name}: no curves, for the test split has {share}")
        else:
            areas = f"AUC {roc_auc_score(truth, probs):.3f} · average precision "
            areas += f"{average_precision_score(truth, probs):.3f} · {share}"
            drawn = classifier_curves(truth, probs, f"ROC and precision-recall curve of {name}")
            panels.append(panel(name, areas, drawn))
    return join(
        [
            tag("p", "ROC and precision-recall curves on the test split; dashed: guessing."),
            tag("div", *panels, class_="panels pairs"),
            tag("ul", *(tag("li", text) for text in skipped)) if skipped else None,
            tag("h3", "Confusion matrix"),
            _confusion(run),
        ]
    )
