"""Whether a run is complete. Every command that needs to know asks this module.

A run is complete when its last step is trained and evaluated, its samples, predictions and report
are written, and its trackers were closed. ``finished`` in ``environment.json`` is written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xraygan.utils.parsing import parse_json, parse_toml, read_text

Tree = Mapping[str, Any]
LARGEST = 1 << 28  # most bytes of a file that is read
#: keys of a protocol whose figures are not those that the end of the training measured
_MEASURED_LATER = ("changed", "chosen_on", "trained_on_fingerprint")


def lacking(run: Path) -> list[str]:
    """The things that a run lacks to be complete, as phrases; empty if it is complete."""
    lacks = missing_results(run)
    if lacks:
        return lacks
    if not (run / "report.html").is_file():
        lacks.append("report.html")
    recipe, environment = (
        _read_or_empty(run, "recipe.toml"),
        _read_or_empty(run, "environment.json"),
    )
    if "finished" in environment:  # runs of former versions have no such key
        total, step = total_steps(recipe, environment), _finished_step(environment)
        if step is None or total not in (None, step):
            lacks.append("the closing of its trackers (`finished` in environment.json)")
    return lacks


def missing_results(run: Path) -> list[str]:
    """The things that a run lacks before its report can be written: steps, samples, figures.

    A folder without a recipe lacks nothing that is known if it has figures.

    Returns:
        Phrases, for a message.
    """
    recipe, environment = (
        _read_or_empty(run, "recipe.toml"),
        _read_or_empty(run, "environment.json"),
    )
    total = total_steps(recipe, environment)
    ended = total is not None and _finished_step(environment) == total
    step = total if ended else trained_steps(run)
    if total is not None and step is not None and step < total:
        return [f"steps {step + 1:,} to {total:,} of its training"]
    lacks = []
    if total is not None and "generator" in recipe:
        kinds = ["png", "csv"] if "classifier" in recipe else ["png"]
        names = [f"samples/step-{total:08d}.{kind}" for kind in kinds]
        lacks += [name for name in names if not (run / name).is_file()]
    if not (run / "evaluation.json").is_file():
        lacks.append("evaluation.json")
    elif not is_whole(run / "evaluation.json"):
        lacks.append("the figures of metrics that failed")
    elif total is not None and not ended and not _measured_at_end(run, total):
        lacks.append(f"the evaluation of its last step, {total:,}")
    if "classifier" in recipe and not (run / "predictions.csv").is_file():
        lacks.append("predictions.csv")
    return lacks


def training_left(run: Path) -> str:
    """A clause that says how much of a run is trained; empty if all is, or if it is not known."""
    recipe, environment = (
        _read_or_empty(run, "recipe.toml"),
        _read_or_empty(run, "environment.json"),
    )
    total, step = total_steps(recipe, environment), trained_steps(run)
    if total is None or step is None or step >= total or _finished_step(environment) == total:
        return ""
    return f"{step:,} of {total:,} steps are trained"


def total_steps(recipe: Tree, environment: Tree) -> int | None:
    """Steps of the whole run; None if its files do not say.

    Args:
        recipe: the tables of ``recipe.toml``.
        environment: the content of ``environment.json``, which holds the images of an epoch.
    """
    run = recipe.get("run", {})
    if isinstance(steps := run.get("steps"), int):
        return steps
    images = environment.get("dataset", {}).get("images", {}).get("train")
    numbers = (run.get("epochs"), run.get("batch_size"), images)
    if not all(isinstance(number, int) for number in numbers) or not run["batch_size"]:
        return None
    return run["epochs"] * (images // run["batch_size"])


def trained_steps(run: Path) -> int | None:
    """The step of a run's newest checkpoint; without checkpoints, the last logged step."""
    names = [path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*")]
    steps = [int(name) for name in names if name.isdecimal()]
    return max(steps or _logged_steps(run), default=None)


def is_whole(evaluation: Path) -> bool:
    """Whether an evaluation file exists and no metric failed in it."""
    return evaluation.is_file() and not _read_or_empty(evaluation.parent, evaluation.name).get(
        "failed"
    )


def evaluated_step(run: Path) -> int | None:
    """The step that ``evaluation.json`` measured; None if it does not say."""
    step = _read_or_empty(run, "evaluation.json").get("step")
    return step if isinstance(step, int) else None


def _finished_step(environment: Tree) -> int | None:
    finished = environment.get("finished")
    return finished.get("step") if isinstance(finished, dict) else None


def _measured_at_end(run: Path, total: int) -> bool:
    """Whether ``evaluation.json`` is the one that the end of the training wrote."""
    evaluation = _read_or_empty(run, "evaluation.json")
    protocol = evaluation.get("protocol")
    later = isinstance(protocol, dict) and any(key in protocol for key in _MEASURED_LATER)
    return evaluation.get("step") == total and not later


def _logged_steps(run: Path) -> list[int]:
    steps: list[Any] = []
    with suppress(OSError, ValueError):
        for text in read_text(run / "metrics.jsonl", LARGEST).splitlines():
            with suppress(ValueError):  # a line that a crash cut short
                line = parse_json(text)
                steps += [line["step"]] if isinstance(line, dict) and "step" in line else []
    return [step for step in steps if isinstance(step, int)]


def _read_or_empty(run: Path, name: str) -> dict[str, Any]:
    """The tables or the object of a file; empty where it cannot be read."""
    parse = parse_toml if name.endswith(".toml") else parse_json
    try:
        content = parse(read_text(run / name, LARGEST))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
