"""The model card of an export: Markdown with front matter in the format of Hugging Face."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from xraygan import __version__
from xraygan.plugin_api import (
    SPLIT_NAMES,
    RunDirectory,
    Session,
    cautions,
    read_environment,
    training_left,
)

from .loading import loading
from .models import Model

LIMITS = """\
- Research software, not a diagnostic device: do not use it for decisions about patients.
- Generated images are not images of patients, but they can still reveal patients: a generator may
  have memorised some of its training images.
- The figures are for one test set; they say little about other hospitals, devices and years.
- Images were resized to a square of low resolution, in which small findings are lost.
- Labels may be wrong in ways that the figures do not show.
"""

Object = dict[str, Any]


def card(
    session: Session,
    run_dir: RunDirectory,
    step: int,
    models: Sequence[Model],
    files: Sequence[str],
) -> str:
    """The text of ``README.md``.

    Args:
        step: the step of the exported checkpoint.
        files: the names of the files beside the card.
    """
    try:
        evaluation = run_dir.read_evaluation()
    except FileNotFoundError:
        evaluation = {}
    parts = [
        _front_matter(session, models, evaluation, step),
        f"# {_escape(session.recipe.name)}",
        _description(session, models, step) + _unfinished(run_dir),
        _data(session, run_dir),
        _results(evaluation, step),
        _audit(run_dir, step),
        _interface(session, models),
        "## How to load the files\n\n" + "\n\n".join(loading(session, models, files)),
        f"## Limits\n\n{LIMITS}",
        _licence(session),
        f"## Recipe\n\nWithout the folders of the machine.\n\n```toml\n{_recipe(session)}```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


# -- front matter ----------------------------------------------------------------------------------


def _front_matter(session: Session, models: Sequence[Model], evaluation: Object, step: int) -> str:
    """YAML whose values are JSON, which is valid YAML."""
    names = [model.name for model in models]
    tags = ["xraygan", "chest-x-ray", "medical-imaging", "research-only"]
    tags += ["gan"] * ("generator" in names)
    kinds = {"classifier": "image-classification", "generator": "unconditional-image-generation"}
    content: Object = {
        "license": "unknown",
        "library_name": "xraygan",
        "pipeline_tag": next(kind for name, kind in kinds.items() if name in names),
        "tags": tags,
    }
    measured = _measured(evaluation) if evaluation.get("step") == step else {}
    if measured:
        about = evaluation["protocol"]
        dataset, split = about.get("dataset", "unknown"), about.get("split", "test")
        content["model-index"] = [
            {
                "name": session.recipe.name,
                "results": [
                    {
                        "task": {"type": content["pipeline_tag"]},
                        "dataset": {"name": dataset, "type": dataset, "split": split},
                        "metrics": [
                            {"type": name, "name": name, "value": metric["value"]}
                            for name, metric in measured.items()
                        ],
                    }
                ],
            }
        ]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    return "\n".join(["---", *lines, "---"])


def _measured(evaluation: Object) -> Object:
    """The metrics whose value is a finite number."""
    return {
        name: metric
        for name, metric in evaluation.get("metrics", {}).items()
        if isinstance(metric.get("value"), int | float) and math.isfinite(metric["value"])
    }


# -- networks and data -----------------------------------------------------------------------------


def _description(session: Session, models: Sequence[Model], step: int) -> str:
    graph, recipe = session.graph, session.recipe
    task, config = graph.task, recipe.tables.run
    rows = []
    for model in models:
        part = recipe.choices[model.name].part
        count = sum(parameter.numel() for parameter in model.network.parameters())
        decay = graph.ema_decays.get(model.name)
        average = f"; the average of its weights with decay {decay:g}" if decay else ""
        about = f"{part.summary}{average}"
        rows.append((model.name, f"`{part.name}` ({part.origin})", about, f"{count:,}"))
    terms = ", ".join(f"`{term.name}` x {term.weight:g}" for term in graph.terms)
    kind = "one of" if task.exclusive else "any number of"
    return f"""\
## What it is

Networks for grey chest radiographs of {task.image_size} x {task.image_size} pixels and \
{len(task.classes)} classes (an image has {kind} them), trained with
[xraygan](https://pypi.org/project/xraygan/) {__version__}: step {step:,}, batches of \
{config.batch_size}, seed {config.seed}. Research only.

{_table(("network", "plugin", "what", "parameters"), rows)}

It was trained on the weighted sum of these terms: {terms}."""


def _unfinished(run_dir: RunDirectory) -> str:
    left = training_left(run_dir.path)
    return f"\n\n**The run was not finished: {left}.**" * bool(left)


def _data(session: Session, run_dir: RunDirectory) -> str:
    recipe, data = session.recipe, read_environment(run_dir).get("dataset", {})
    if not {"images", "patients", "classes", "fingerprint"} <= data.keys():
        data = session.data.summary()
    part, config = recipe.choices["data"].part, recipe.tables.data
    notes = _escape(" ".join(data.get("notes", [])))
    caution = f", as far as patients are known ({notes})" if notes else ""
    splits = list(data["images"])
    rows = [
        ("images", *(f"{data['images'][name]:,}" for name in splits)),
        ("patients", *(f"{data['patients'][name]:,}" for name in splits)),
    ]
    for label in session.graph.task.classes:
        rows.append((_escape(label), *(f"{data['classes'][name][label]:,}" for name in splits)))
    return f"""\
## Data

`{part.name}` ({part.origin}): {part.summary}. Label policy "{config.label_policy}"; no patient is \
in two splits{caution}. Fingerprint of pixels, labels and splits: `{data["fingerprint"]}`.

{_table(("", *splits), rows)}"""


def _recipe(session: Session) -> str:
    """The resolved recipe without the paths of this machine."""
    tree = session.recipe.resolved()
    for key in ("root", "cache"):
        tree["data"].pop(key, None)
    return tomli_w.dumps(_without_folders(tree))


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(below) for key, below in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


# -- results ---------------------------------------------------------------------------------------


def _results(evaluation: Object, step: int) -> str:
    if not evaluation:
        return "## Results\n\nThe run was not evaluated."
    about, measured = evaluation.get("protocol", {}), _measured(evaluation)
    kind = SPLIT_NAMES.get(about.get("split", "test"), "test")
    rows = []
    for name, metric in measured.items():
        low, high = metric.get("interval") or (None, None)
        span = "" if low is None else f"{low:.3f} to {high:.3f}"
        note = _escape(metric.get("note") or "")
        rows.append((_escape(name), f"{metric['value']:.3f}", span, str(metric.get("n", "")), note))
    warnings = "".join(f"{_escape(caution)} " for caution in cautions(_without_folders(about)))
    protocol = ", ".join(
        f"{key.replace('_', ' ')} {_escape(str(value))}"
        for key, value in about.items()
        if isinstance(value, str | int | float)
    )
    return f"""\
## Results

{_step_caution("measured", evaluation.get("step"), step)}{warnings}Protocol: {protocol}. \
Intervals are over {kind} patients, or over generated images; they hold the training seed fixed.

{_table(("metric", "value", "95 % interval", "n", "note"), rows)}"""


def _audit(run_dir: RunDirectory, step: int) -> str:
    try:
        audit = run_dir.read_audit()
        about = audit["protocol"]
        text = (
            f"{_step_caution('made', audit['step'], step)}{_data_caution(about)}"
            f"{_escape(audit['says'])} "
            f"({about['generated']:,} generated, {about['training_images']:,} training and "
            f"{about['held_out_images']:,} held-out images; verdict `{audit['verdict']}`). "
            "It cannot show that a generator is safe."
        )
    except FileNotFoundError:
        text = (
            "None was made. `xraygan audit RUN` tests whether a generator copies its training "
            "images; run it before you publish the weights."
        )
    return f"## Privacy audit\n\n{text}"


def _data_caution(about: Object) -> str:
    differs = about.get("data_differs") or []
    lines = _escape("; ".join(map(str, differs)))
    return f"**It was made with other images than the training images: {lines}.** " * bool(differs)


def _step_caution(verb: str, result_step: object, step: int) -> str:
    """A warning that a result is for another step than the exported one."""
    if result_step == step:
        return ""
    return f"**It was {verb} at step {result_step}, not at the step of these files.** "


# -- inputs and outputs, licence -------------------------------------------------------------------


def _interface(session: Session, models: Sequence[Model]) -> str:
    task = session.graph.task
    low, high = session.recipe.tables.data.value_range
    side, k = task.image_size, len(task.classes)
    images = f"grey, black {low:g} and white {high:g}"
    share = "adding up to 1" if task.exclusive else "independent"
    conditions = "one-hot" if task.exclusive else "0 or 1 for each class"
    rows = []
    for model in models:
        if model.name == "generator":
            shape = f"(N, {model.network.latent_size})"
            rows.append((model.name, "input", "`z`", shape, "standard normal"))
            if "labels" in model.inputs:
                rows.append((model.name, "input", "`labels`", f"(N, {k})", conditions))
            generated = "grey, black -1 and white 1"
            rows.append((model.name, "output", "`images`", f"(N, 1, {side}, {side})", generated))
        else:
            rows.append((model.name, "input", "`images`", f"(N, 1, {side}, {side})", images))
            rows.append((model.name, "output", "`logits`", f"(N, {k})", "any number"))
            span = f"in [0, 1], {share}"
            rows.append((model.name, "output", "`probabilities`", f"(N, {k})", span))
    classes = "\n".join(f"{i}. {_escape(name)}" for i, name in enumerate(task.classes))
    return f"""\
## Inputs and outputs

Tensors are float32; N is any number from 1.

{_table(("network", "", "name", "shape", "range"), rows)}

The classes, by their columns:

{classes}"""


def _licence(session: Session) -> str:
    part = session.recipe.choices["data"].part
    licence = part.cls.licence or "unknown to the toolkit; add it here before you publish this"
    return f"""\
## Licence

Weights: whoever publishes them chooses the licence and sets `license` above. Training images \
(`{part.name}`): {licence}."""


# -- Markdown --------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def lines() -> Iterator[str]:
        yield from (" | ".join(head), " | ".join("---" for _ in head))
        yield from (" | ".join(row) for row in rows)

    return "\n".join(f"| {line} |" for line in lines())


def _escape(text: str) -> str:
    """A name or message as one line with the characters of Markdown escaped."""
    marks = {"&": "&amp;", "<": "&lt;", "|": "\\|", "`": "'", "*": "\\*", "[": "\\["}
    return "".join(marks.get(letter, letter) for letter in " ".join(text.split()))
