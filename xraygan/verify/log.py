"""Checks of ``metrics.jsonl`` against the recipe and the evaluation of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from xraygan.errors import UserError
from xraygan.rundir import completion
from xraygan.rundir.directory import RunDirectory

from .report import Report

Tree = Mapping[str, Any]
#: keys of a resumed run that change which lines its log has
DECIDE_LINES = ("run.log_every", "run.steps", "run.epochs")


def check_log(
    report: Report, run_dir: RunDirectory, recipe: Tree, environment: Tree, evaluation: Tree
) -> None:
    """Check the lines of a log: which steps there are, their progress, and measured values.

    The losses cannot be checked without training again; only their digest protects them.
    """
    path = run_dir.metrics
    try:
        lines = run_dir.read_metrics()
    except UserError as error:
        report.differs(path, str(error).removeprefix(f"{path}: "))
        return
    if not path.is_file():
        report.differs(path, "a file of every finished run", "a file", "none")
        return
    total = completion.total_steps(recipe, environment)
    every = recipe.get("run", {}).get("log_every")
    resumed = environment.get("resumed", [])
    if not total or not isinstance(every, int) or every < 1:
        report.unchecked(path, "the steps of its lines: the recipe does not name them")
    elif any(key in entry.get("changed", {}) for entry in resumed for key in DECIDE_LINES):
        report.unchecked(path, "the steps of its lines: the run was resumed with other settings")
    else:
        expected = [*range(every, total, every), total]
        _check_steps(report, run_dir, lines, expected)
    _check_measured(report, run_dir, lines, evaluation)


def _check_steps(
    report: Report, run_dir: RunDirectory, lines: Sequence[Tree], expected: list[int]
) -> None:
    path, total = run_dir.metrics, expected[-1]
    trained = [line for line in lines if "evaluation" not in line]
    steps = [line["step"] for line in trained]
    pairs: list[tuple[str, Any, Any]] = []
    for number, (due, step) in enumerate(zip_longest(expected, steps)):
        if due != step:  # the lines after it are shifted
            pairs.append((f"training line {number + 1}", _of_step(due), _of_step(step)))
            break
    pairs += [
        (f"step {line['step']}, progress", line["step"] / total, line.get("progress"))
        for line in trained
        if line.get("progress") != line["step"] / total
    ]
    text = "the lines that the recipe's log_every and steps give"
    report.all_differ(path, text, pairs, f"has {text}")


def _of_step(step: int | None) -> str:
    return "none" if step is None else f"a line of step {step}"


def _check_measured(
    report: Report, run_dir: RunDirectory, lines: Sequence[Tree], evaluation: Tree
) -> None:
    """Compare figures that were logged at the measured step with those of ``evaluation.json``."""
    protocol = evaluation.get("protocol", {})
    step, split = evaluation.get("step"), protocol.get("split", "test")
    same = [
        line for line in lines
        if "evaluation" in line and line["step"] == step and line.get("split", "test") == split
    ]  # fmt: skip
    if not same or protocol.get("changed"):
        return
    metrics = evaluation.get("metrics", {})
    pairs = [
        (f"step {step}, {name}", metrics[name].get("value"), value)
        for name, value in same[-1]["evaluation"].items()
        if name in metrics and metrics[name].get("value") != value
    ]
    text = "the figure of evaluation.json"
    report.all_differ(run_dir.metrics, text, pairs, "its figures of the measured step are those of "
                      "evaluation.json")  # fmt: skip
