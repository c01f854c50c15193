"""Whether a run is done: the one place that knows, which every command asks.

A run is done when its last step is trained and evaluated and all that belongs to its end is there:
samples, predictions, the report, and what trackers are told. ``finished`` in ``environment.json``
is written after all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xraygan.utils.parsing import parse_json, parse_toml, read_text

Tree = Mapping[str, Any]
LARGEST = 1 << 28  # bytes of a file that is read
#: what a protocol says of figures that are not those of the end of the run's own training
_OTHERWISE = ("changed", "chosen_on", "trained_on_fingerprint")


def lacking(run: Path) -> list[str]:
    """What the run in a directory lacks to be done, in words; empty if it is done."""
    found = missing_results(run)
    if found:
        return found
    if not (run / "report.html").is_file():
        found.append("report.html")
    recipe, environment = _read(run, "recipe.toml"), _read(run, "environment.json")
    if "finished" in environment:  # runs of former versions have no such key
        total, step = total_steps(recipe, environment), _finished(environment)
        if step is None or total not in (None, step):
            found.append("the last word to its trackers (`finished` in environment.json)")
    return found


def missing_results(run: Path) -> list[str]:
    """What a run lacks before its report can be written, in words: steps, samples, figures.

    Of a folder without a recipe, nothing is known to be lacking if it has figures.
    """
    recipe, environment = _read(run, "recipe.toml"), _read(run, "environment.json")
    total = total_steps(recipe, environment)
    ended = total is not None and _finished(environment) == total
    step = total if ended else trained_steps(run)
    if total is not None and step is not None and step < total:
        return [f"steps {step + 1:,} to {total:,} of its training"]
    found = []
    if total is not None and "generator" in recipe:
        kinds = ["png", "csv"] if "classifier" in recipe else ["png"]
        names = [f"samples/step-{total:08d}.{kind}" for kind in kinds]
        found += [name for name in names if not (run / name).is_file()]
    if not (run / "evaluation.json").is_file():
        found.append("evaluation.json")
    elif not is_whole(run / "evaluation.json"):
        found.append("the figures of metrics that failed")
    elif total is not None and not ended and not _is_own(run, total):
        found.append(f"the evaluation of step {total:,}, its last")
    if "classifier" in recipe and not (run / "predictions.csv").is_file():
        found.append("predictions.csv")
    return found


def training_left(run: Path) -> str:
    """That a run's training is not over, as a clause; empty if it is, or cannot be told."""
    recipe, environment = _read(run, "recipe.toml"), _read(run, "environment.json")
    total, step = total_steps(recipe, environment), trained_steps(run)
    if total is None or step is None or step >= total or _finished(environment) == total:
        return ""
    return f"{step:,} of {total:,} steps are trained"


def total_steps(recipe: Tree, environment: Tree) -> int | None:
    """Steps of a whole run; None if its files do not tell.

    Args:
        recipe: the tables of its ``recipe.toml``.
        environment: its ``environment.json``, which says how many images an epoch has.
    """
    run = recipe.get("run", {})
    if isinstance(steps := run.get("steps"), int):
        return steps
    images = environment.get("dataset", {}).get("images", {}).get("train")
    words = (run.get("epochs"), run.get("batch_size"), images)
    if not all(isinstance(number, int) for number in words) or not run["batch_size"]:
        return None
    return run["epochs"] * (images // run["batch_size"])


def trained_steps(run: Path) -> int | None:
    """The step of a run's newest checkpoint; without checkpoints, the last that was logged."""
    names = [path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*")]
    steps = [int(name) for name in names if name.isdecimal()]
    return max(steps or _logged(run), default=None)


def is_whole(evaluation: Path) -> bool:
    """Whether a file has figures, and no metric failed when they were measured."""
    return evaluation.is_file() and not _read(evaluation.parent, evaluation.name).get("failed")


def evaluated_step(run: Path) -> int | None:
    """The step that ``evaluation.json`` is of; None if it does not tell."""
    step = _read(run, "evaluation.json").get("step")
    return step if isinstance(step, int) else None


def _finished(environment: Tree) -> int | None:
    found = environment.get("finished")
    return found.get("step") if isinstance(found, dict) else None


def _is_own(run: Path, total: int) -> bool:
    """Whether ``evaluation.json`` is what the end of the training writes."""
    found = _read(run, "evaluation.json")
    protocol = found.get("protocol")
    otherwise = isinstance(protocol, dict) and any(key in protocol for key in _OTHERWISE)
    return found.get("step") == total and not otherwise


def _logged(run: Path) -> list[int]:
    found = []
    with suppress(OSError, ValueError):
        for text in read_text(run / "metrics.jsonl", LARGEST).splitlines():
            with suppress(ValueError):  # a line that a crash cut short
                line = parse_json(text)
                found += [line["step"]] if isinstance(line, dict) and "step" in line else []
    return [step for step in found if isinstance(step, int)]


def _read(run: Path, name: str) -> dict[str, Any]:
    """The tables or the object of a file; empty where it cannot be read."""
    parse = parse_toml if name.endswith(".toml") else parse_json
    try:
        found = parse(read_text(run / name, LARGEST))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
