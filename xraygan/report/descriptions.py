"""Sentences about a run that its report and the comparison of runs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xraygan.rundir.completion import missing_results
from xraygan.rundir.file_schemas import cautions
from xraygan.rundir.reader import RunFiles

from .html import Html, count, tag

# Names of metrics, and how to read their values.
METRICS = {
    "auc": ("Area under the ROC curve (AUC)", "1 is perfect, 0.5 is guessing"),
    "average_precision": (
        "Average precision (area under the precision-recall curve)",
        "1 is perfect; guessing has the share of positive images, which the note gives",
    ),
    "sensitivity": (
        "Sensitivity at a fixed specificity",
        "share of the positive images above a threshold from the validation images",
    ),
    "specificity": (
        "Specificity reached at that threshold",
        "share of the negative images that are not above it",
    ),
    "accuracy": ("Accuracy", "share of decisions that are correct"),
    "precision": ("Precision", "share of true positives among positive decisions"),
    "recall": ("Recall (sensitivity)", "share of the positive images that are detected"),
    "confusion_matrix": ("Confusion matrix", "drawn under Classes"),
    "frechet_classifier": ("Fréchet distance in the classifier's features", "0 if identical"),
    "fid": ("Fréchet inception distance (FID)", "0 if identical"),
    "inception_score_classifier": ("Inception score", "from 1 to the number of classes"),
    "kid": ("Kernel distance (KID)", "0 if identical"),
    "ms_ssim": ("MS-SSIM of random pairs", "1 for the same image; compare with real pairs"),
    "ece": ("Expected calibration error", "0 if the probabilities are calibrated"),
    "brier": ("Brier score", "0 is perfect"),
    "cas": (
        "Classifier trained on generated images alone (CAS)",
        "at best as high as on real images",
    ),
    "copies": ("Flagged as copies of training images", "about 0.01 by chance"),
}

# Terms that have no name in a recipe.
TERMS = {
    "generator": "adversarial",
    "discriminator": "adversarial",
    "classification": "on real images",
    "pseudo_label": "on generated images",
    "weighted_total": "all terms times their weights",
}


def summary(run: RunFiles) -> str:
    """A sentence about the steps, seed, data and evaluation of a run."""
    last = next((line for line in reversed(run.lines) if line.get("progress")), {})
    steps, total = last.get("step", 0), run.recipe.get("run", {}).get("steps")
    if last:
        total = round(steps / last["progress"])  # also if the recipe counts in epochs
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
    lacks = missing_results(run.directory)
    return text + (f" Not finished: it lacks {', '.join(lacks)}." if lacks else "")


def missing(run: RunFiles) -> Html | None:
    """A notice of the files that are absent or damaged, if there are any."""
    if not run.missing:
        return None
    files = tag("ul", *(tag("li", name) for name in run.missing))
    title = "Missing from the run directory, and so from this report:"
    return tag("div", title, files, class_="notice")


def absent(file: str, why: str = "") -> Html:
    """The content of a section whose file is missing."""
    return tag("p", "Nothing to show: ", tag("code", file), " is missing or empty", why, ".")


def protocol(run: RunFiles) -> str:
    """Sentences about how the metrics were measured, and on which images."""
    words = run.evaluation.get("protocol", {})
    generated = words.get("generated")
    text = (
        f"Measured at step {count(run.evaluation.get('step'))} on {count(words.get('images'))} "
        f"{run.kind} images of {count(words.get('patients'))} patients"
        + (f" and {count(generated)} generated images. " if generated else ". ")
    )
    if words.get("bootstrap"):
        text += (
            f"Intervals are over {words.get('unit', 'image')}s, from "
            f"{count(words['bootstrap'])} bootstrap resamples, unless a note says otherwise. They "
            "hold this run's seed fixed: another seed trains another network. "
        )
    text += "".join(f"{caution} " for caution in cautions(words))
    return text + "n is the number of images that a value was measured on."


def weights_and_audiences(recipe: Mapping[str, Any]) -> dict[str, str]:
    """For each term its kind, its weight, and the networks that it trains, from the recipe."""
    adversarial = ("generator", "discriminator") if "objective" in recipe else ()
    tables = {name: name for name in adversarial}
    tables |= {"classification": "classifier", "pseudo_label": "labeler"}
    words = {term: recipe[name] for term, name in tables.items() if name in recipe}
    details = {}
    for term, table in (words | recipe.get("scores", {})).items():
        default = tables.get(term, "as the score declares")
        trains = ", ".join(table.get("trains", [default]))
        parts = [TERMS.get(term), f"weight {table.get('weight', 1):g}", f"trains {trains}"]
        details[term] = " · ".join(filter(None, parts))
    return details
