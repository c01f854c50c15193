"""The model card of an export: Markdown with front matter, as Hugging Face reads it."""

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
- Research software, not a diagnostic device: nothing here is fit for decisions about patients.
- Generated images are not patients' images and still can give patients away: a generator may have
  memorised some of those it was trained on.
- The figures are those of one test list; they say little about other hospitals, devices and years.
- Images were squeezed into a square and reduced: small findings do not survive that.
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
        step: the step of the checkpoint that is exported.
        files: the names of the files beside the card.
    """
    try:
        evaluation = run_dir.read_evaluation()
    except FileNotFoundError:
        evaluation = {}
    parts = [
        _front_matter(session, models, evaluation, step),
        f"# {_plain(session.recipe.name)}",
        _what(session, models, step) + _unfinished(run_dir),
        _data(session, run_dir),
        _results(evaluation, step),
        _audit(run_dir, step),
        _interface(session, models),
        "## How to load the files\n\n" + "\n\n".join(loading(session, models, files)),
        f"## Limits\n\n{LIMITS}",
        _licence(session),
        f"## Recipe\n\nWithout folders of the machine it ran on.\n\n```toml\n{_recipe(session)}```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


# -- front matter ----------------------------------------------------------------------------------


def _front_matter(session: Session, models: Sequence[Model], evaluation: Object, step: int) -> str:
    """YAML, each value of it as JSON, which YAML contains."""
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
                            {"type": name, "name": name, "value": found["value"]}
                            for name, found in measured.items()
                        ],
                    }
                ],
            }
        ]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    return "\n".join(["---", *lines, "---"])


def _measured(evaluation: Object) -> Object:
    """The metrics that are one number."""
    return {
        name: found
        for name, found in evaluation.get("metrics", {}).items()
        if isinstance(found.get("value"), int | float) and math.isfinite(found["value"])
    }


# -- what it is ------------------------------------------------------------------------------------


def _what(session: Session, models: Sequence[Model], step: int) -> str:
    graph, recipe = session.graph, session.recipe
    task, words = graph.task, recipe.tables.run
    rows = []
    for model in models:
        part = recipe.choices[model.name].part
        count = sum(parameter.numel() for parameter in model.network.parameters())
        decay = graph.ema_decays.get(model.name)
        kept = f"; the average of its weights with decay {decay:g}" if decay else ""
        about = f"{part.summary}{kept}"
        rows.append((model.name, f"`{part.name}` ({part.origin})", about, f"{count:,}"))
    terms = ", ".join(f"`{term.name}` x {term.weight:g}" for term in graph.terms)
    kind = "one of" if task.exclusive else "any number of"
    return f"""\
## What it is

Networks for grey chest radiographs of {task.image_size} x {task.image_size} pixels and \
{len(task.classes)} classes, of which an image has {kind} them, trained with
[xraygan](https://pypi.org/project/xraygan/) {__version__}: step {step:,}, batches of \
{words.batch_size}, seed {words.seed}. Research only.

{_table(("network", "plugin", "what", "parameters"), rows)}

It was trained on the weighted sum of these terms: {terms}."""


def _unfinished(run_dir: RunDirectory) -> str:
    left = training_left(run_dir.path)
    return f"\n\n**The run was not finished: {left}.**" * bool(left)


def _data(session: Session, run_dir: RunDirectory) -> str:
    recipe, data = session.recipe, read_environment(run_dir).get("dataset", {})
    if not {"images", "patients", "classes", "fingerprint"} <= data.keys():
        data = session.data.summary()
    part, words = recipe.choices["data"].part, recipe.tables.data
    notes = _plain(" ".join(data.get("notes", [])))
    known = f", as far as patients are known ({notes})" if notes else ""
    splits = list(data["images"])
    rows = [
        ("images", *(f"{data['images'][name]:,}" for name in splits)),
        ("patients", *(f"{data['patients'][name]:,}" for name in splits)),
    ]
    for label in session.graph.task.classes:
        rows.append((_plain(label), *(f"{data['classes'][name][label]:,}" for name in splits)))
    return f"""\
## Data

`{part.name}` ({part.origin}): {part.summary}. Label policy "{words.label_policy}"; no patient is \
in two splits{known}. Fingerprint of pixels, labels and splits: `{data["fingerprint"]}`.

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


# -- what was measured -----------------------------------------------------------------------------


def _results(evaluation: Object, step: int) -> str:
    if not evaluation:
        return "## Results\n\nThe run was not evaluated."
    about, measured = evaluation.get("protocol", {}), _measured(evaluation)
    kind = SPLIT_NAMES.get(about.get("split", "test"), "test")
    rows = []
    for name, found in measured.items():
        low, high = found.get("interval") or (None, None)
        span = "" if low is None else f"{low:.3f} to {high:.3f}"
        note = _plain(found.get("note") or "")
        rows.append((_plain(name), f"{found['value']:.3f}", span, str(found.get("n", "")), note))
    warned = "".join(f"{_plain(caution)} " for caution in cautions(_without_folders(about)))
    protocol = ", ".join(
        f"{key.replace('_', ' ')} {_plain(str(value))}"
        for key, value in about.items()
        if isinstance(value, str | int | float)
    )
    return f"""\
## Results

{_of_another_step("measured", evaluation.get("step"), step)}{warned}Protocol: {protocol}. \
Intervals are over {kind} patients, or over generated images; they hold the training seed fixed.

{_table(("metric", "value", "95 % interval", "n", "note"), rows)}"""


def _audit(run_dir: RunDirectory, step: int) -> str:
    try:
        found = run_dir.read_audit()
        about = found["protocol"]
        said = (
            f"{_of_another_step('made', found['step'], step)}{_of_other_data(about)}"
            f"{_plain(found['says'])} "
            f"({about['generated']:,} generated, {about['training_images']:,} training and "
            f"{about['held_out_images']:,} held-out images; verdict `{found['verdict']}`). "
            "It cannot show that a generator is safe."
        )
    except FileNotFoundError:
        said = (
            "None was made. `xraygan audit RUN` asks whether a generator copies its training "
            "images; do that before its weights leave the house."
        )
    return f"## Privacy audit\n\n{said}"


def _of_other_data(about: Object) -> str:
    differs = about.get("data_differs") or []
    lines = _plain("; ".join(map(str, differs)))
    return f"**It was made with other images than those of the training: {lines}.** " * bool(
        differs
    )


def _of_another_step(what: str, of: object, step: int) -> str:
    return "" if of == step else f"**It was {what} at step {of}, not at that of these files.** "


# -- how to use it ---------------------------------------------------------------------------------


def _interface(session: Session, models: Sequence[Model]) -> str:
    task = session.graph.task
    low, high = session.recipe.tables.data.value_range
    side, k = task.image_size, len(task.classes)
    images = f"grey, black {low:g} and white {high:g}"
    share = "add up to 1" if task.exclusive else "each on its own"
    conditions = "one-hot" if task.exclusive else "0 or 1 for each class"
    rows = []
    for model in models:
        if model.name == "generator":
            shape = f"(N, {model.network.latent_size})"
            rows.append((model.name, "input", "`z`", shape, "standard normal"))
            if "labels" in model.inputs:
                rows.append((model.name, "input", "`labels`", f"(N, {k})", conditions))
            made = "grey, black -1 and white 1"
            rows.append((model.name, "output", "`images`", f"(N, 1, {side}, {side})", made))
        else:
            rows.append((model.name, "input", "`images`", f"(N, 1, {side}, {side})", images))
            rows.append((model.name, "output", "`logits`", f"(N, {k})", "any number"))
            said = f"in [0, 1], {share}"
            rows.append((model.name, "output", "`probabilities`", f"(N, {k})", said))
    classes = "\n".join(f"{i}. {_plain(name)}" for i, name in enumerate(task.classes))
    return f"""\
## Inputs and outputs

Tensors of float32; N is any number from 1.

{_table(("network", "", "name", "shape", "range"), rows)}

The classes, by their columns:

{classes}"""


def _licence(session: Session) -> str:
    part = session.recipe.choices["data"].part
    said = part.cls.licence or "unknown to the toolkit; say it here before you publish this"
    return f"""\
## Licence

Of the weights: whoever publishes them chooses it, and sets `license` above. Of the images they \
were made from (`{part.name}`): {said}."""


# -- Markdown --------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def lines() -> Iterator[str]:
        yield from (" | ".join(head), " | ".join("---" for _ in head))
        yield from (" | ".join(row) for row in rows)

    return "\n".join(f"| {line} |" for line in lines())


def _plain(text: str) -> str:
    """A name or message as one line that Markdown leaves as it is."""
    marks = {"&": "&amp;", "<": "&lt;", "|": "\\|", "`": "'", "*": "\\*", "[": "\\["}
    return "".join(marks.get(letter, letter) for letter in " ".join(text.split()))
