"""Whether a run is done: the one place that knows, which every command asks.

A run is done when its last step is trained and evaluated and all that belongs to its end is there:
samples, predictions, the report, and what trackers are told. ``finished`` in ``environment.json``
is written after all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .reading import LARGEST, parse_json, read_text
from .resuming import known_environment, known_recipe, read_environment
from .rundir import RunDirectory, write_json

Tree = Mapping[str, Any]
#: what a protocol says of figures that are not those of the end of the run's own training
_OTHERWISE = ("changed", "chosen_on", "trained_on_fingerprint")


def lacking(place: RunDirectory) -> list[str]:
    """What a run lacks to be done, in words; empty if it is done."""
    found = unmeasured(place)
    if found:
        return found
    if not place.report.is_file():
        found.append("report.html")
    # Runs of former versions have no such key.
    if known_environment(place).get("finished", ...) is None:
        found.append("the last word to its trackers (`finished` in environment.json)")
    return found


def unmeasured(place: RunDirectory) -> list[str]:
    """What a run lacks before its report can be written, in words: steps, samples, figures.

    Of a folder without a recipe, nothing is known to be lacking if it has figures.
    """
    recipe, environment = known_recipe(place), known_environment(place)
    total = total_steps(recipe, environment)
    ended = total is not None and _finished(environment) == total
    step = total if ended else trained_steps(place)
    if total is not None and step is not None and step < total:
        return [f"steps {step + 1:,} to {total:,} of its training"]
    found = []
    if total is not None and "generator" in recipe:
        grid = place.samples / f"step-{total:08d}.png"
        tables = [grid.with_suffix(".csv")] if "classifier" in recipe else []
        found += [f"samples/{path.name}" for path in (grid, *tables) if not path.is_file()]
    if not place.evaluation.is_file():
        found.append("evaluation.json")
    elif total is not None and not ended and not _is_own(place, total):
        found.append(f"the evaluation of step {total:,}, its last")
    if "classifier" in recipe and not place.predictions.is_file():
        found.append("predictions.csv")
    return found


def untrained(place: RunDirectory) -> str:
    """That a run's training is not over, as a clause; empty if it is, or cannot be told."""
    recipe, environment = known_recipe(place), known_environment(place)
    total, step = total_steps(recipe, environment), trained_steps(place)
    if total is None or step is None or step >= total or _finished(environment) == total:
        return ""
    return f"{step:,} of {total:,} steps are trained"


def mark(place: RunDirectory, step: int) -> None:
    """Note in ``environment.json`` that a run is done, after its last step.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {**read_environment(place), "finished": {"step": step, "time": now}}
    write_json(place.environment, content)


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


def trained_steps(place: RunDirectory) -> int | None:
    """The step of a run's newest checkpoint; without checkpoints, the last that was logged."""
    names = [path.name.removeprefix("step-") for path in place.checkpoints.glob("step-*")]
    steps = [int(name) for name in names if name.isdecimal()]
    logged = () if steps else (line["step"] for line in place.read_metrics())
    return max((*steps, *logged), default=None)


def evaluated_step(place: RunDirectory) -> int | None:
    """The step that ``evaluation.json`` is of; None if it does not tell."""
    step = _evaluation(place).get("step")
    return step if isinstance(step, int) else None


def _finished(environment: Tree) -> int | None:
    found = environment.get("finished")
    return found.get("step") if isinstance(found, dict) else None


def _is_own(place: RunDirectory, total: int) -> bool:
    """Whether ``evaluation.json`` is what the end of the training writes."""
    found = _evaluation(place)
    protocol = found.get("protocol")
    otherwise = isinstance(protocol, dict) and any(key in protocol for key in _OTHERWISE)
    return found.get("step") == total and not otherwise


def _evaluation(place: RunDirectory) -> Tree:
    try:
        found = parse_json(read_text(place.evaluation, LARGEST << 8))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
