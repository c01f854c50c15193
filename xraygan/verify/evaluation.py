"""The evaluation of a run repeated in memory, and compared with the files of the run.

On the machine that measured the run the values are the same, as the toolkit's operations are
deterministic. Another processor or number of threads adds in another order, which changes the
last bits: values may then differ by :data:`ELSEWHERE`, or by :data:`ELSEWHERE_REDUCED` if networks
compute in bfloat16 or TF32, relative to 1 or to the value if it is larger. Figures of all images
differ less than probabilities of single ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from xraygan._version import __version__
from xraygan.errors import UserError
from xraygan.evaluation.evaluation import Evaluated, RunEvaluation, evaluate
from xraygan.rundir.directory import PACKAGES, device_name
from xraygan.rundir.file_readers import LARGEST
from xraygan.session.session import restore_session
from xraygan.training.final_evaluation import predictions_table
from xraygan.utils.atomic_files import as_json
from xraygan.utils.csv_cells import as_csv, parse_csv
from xraygan.utils.parsing import parse_json, read_text
from xraygan.utils.precision import thread_settings, threads
from xraygan.utils.progress import Display

from .files import RunContent
from .report import Report
from .values import SAME_MACHINE, Pairs, Tolerance, compare_values, elsewhere, relative, within

#: keys of ``environment.json`` that decide the last bits of an evaluation
_DECIDE_BITS = ("device", "threads", "cpu_capability", "torch", "torchvision", "numpy",
                "scikit-learn")  # fmt: skip


def check_evaluation(
    report: Report,
    run: RunContent,
    overrides: Sequence[str],
    display: Display,
    tolerance: float | None = None,
) -> None:
    """Measure a run's checkpoint again and compare ``evaluation.json`` and the tables beside it.

    Args:
        overrides: where the data are now and the device, as ``--set``.
        tolerance: how far values may differ, relative to 1 or to the value if it is larger; None
            for 0 on the machine of the run, and the module's figures on another one.
    """
    place = run.run_dir
    if run.step is None:
        report.unchecked(place.evaluation, "not measured again: it names no step")
        return
    changed = run.evaluation.get("protocol", {}).get("changed", {})
    if any(value is None for value in changed.values()):
        keys = ", ".join(key for key, value in changed.items() if value is None)
        report.unchecked(place.evaluation, f"not measured again: it was measured without {keys}")
        return
    overrides = (*(f"{key}={json.dumps(value)}" for key, value in changed.items()), *overrides)
    with threads(run.threads):
        try:
            session, _, step = restore_session(place.path, overrides, display, str(run.step))
            evaluation = session.evaluation()
            measured = evaluate(evaluation, step)
        except UserError as error:
            report.differs(place.path, f"the evaluation cannot be repeated: {error}")
            return
        device = device_name(session.device)
        other = _other_machine(run, device)
    for name, failure in measured.errors.items():
        if not isinstance(failure, UserError):
            raise failure
        report.unchecked(f"{report.name(place.evaluation)}: {name}", f"not measured: {failure}")
    precision = run.recipe.get("run", {}).get("precision", "auto")
    devices = (run.environment.get("device"), device)
    allowed = elsewhere(precision, devices) if other else SAME_MACHINE
    if tolerance is not None:
        allowed = Tolerance(tolerance, tolerance)
    if other:
        report.note(
            place.evaluation,
            f"measured again on another machine ({'; '.join(other)}), so figures may differ by "
            f"{allowed.figures:g} and values of single images and resamples by {allowed.rows:g}, "
            "relative to 1 or the value",
        )
    _compare_all(report, run, evaluation, measured, allowed)


def _other_machine(run: RunContent, device: str) -> list[str]:
    """How this machine differs from that of the run, in what decides the last bits."""
    here = {"device": device, **thread_settings(), **{name: version(name) for name in PACKAGES}}
    return [
        f"{key}: {run.environment.get(key)}, here {here[key]}"
        for key in _DECIDE_BITS
        if run.environment.get(key) != here[key]
    ]


# -- comparison ------------------------------------------------------------------------------------


def _compare_all(
    report: Report,
    run: RunContent,
    evaluation: RunEvaluation,
    measured: Evaluated,
    allowed: Tolerance,
) -> None:
    place = run.run_dir
    now = parse_json(as_json(measured.content))
    pairs, largest = compare_evaluations(run.evaluation, now, allowed.figures, measured.errors)
    text = "the value that was measured again"
    report.all_differ(place.evaluation, text, pairs, f"measured again: {within(largest)}")
    tables = {place.bootstrap: measured.resamples.round(6)} if len(measured.resamples) else {}
    if "classifier" in evaluation.networks:
        tables[place.predictions] = predictions_table(evaluation)
    for path, table in tables.items():
        try:
            there = parse_csv(read_text(path, LARGEST))
        except (OSError, ValueError) as error:
            report.differs(path, f"cannot be read: {error}")
            continue
        pairs, largest = compare_tables(there, parse_csv(as_csv(table)), allowed.rows)
        report.all_differ(path, text, pairs, f"measured again: {within(largest)}")


def compare_evaluations(
    there: Mapping[str, Any], now: Mapping[str, Any], allowed: float, failed: Mapping[str, Any]
) -> tuple[Pairs, float]:
    """Compare the content of ``evaluation.json`` with a repeated evaluation.

    Only keys of both are compared, since versions add keys; but no metric may be absent on one
    side, unless metrics failed when they were measured again.

    Args:
        failed: metrics that could not be measured again.

    Returns:
        The differences beyond what is allowed: key, repeated value, value there. And the largest
        relative difference of numbers.
    """
    other_version = there.get("xraygan") != __version__  # its notes may be worded otherwise
    trees = [_comparable(content, other_version) for content in (there, now)]
    pairs, largest = compare_values(trees[0], trees[1], allowed)
    old, new = (set(content.get("metrics", {})) for content in (there, now))
    pairs += [(f"metrics.{name}", "a figure", None) for name in sorted(new - old)]
    if not failed:
        pairs += [(f"metrics.{name}", None, "a figure") for name in sorted(old - new)]
    return pairs, largest


def _comparable(content: Mapping[str, Any], other_version: bool) -> dict[str, Any]:
    tree = {key: content[key] for key in ("step", "protocol", "metrics") if key in content}
    if other_version:
        tree["metrics"] = {
            name: {key: value for key, value in metric.items() if key != "note"}
            for name, metric in tree.get("metrics", {}).items()
        }
    return tree


def compare_tables(there: pd.DataFrame, now: pd.DataFrame, allowed: float) -> tuple[Pairs, float]:
    """Compare a CSV file with the table that a repeated evaluation makes; see
    :func:`compare_evaluations`.

    Args:
        there: of :func:`xraygan.utils.csv_cells.parse_csv`, with line numbers as its index.
        now: the same.
    """
    if list(there.columns) != list(now.columns):
        return [("line 1", ", ".join(now.columns), ", ".join(there.columns))], 0.0
    if len(there) != len(now):
        return [("rows", len(now), len(there))], 0.0
    pairs: Pairs = []
    largest = 0.0
    for name in there.columns:
        old, new = there[name].to_numpy(str), now[name].to_numpy(str)
        for row in np.flatnonzero(old != new):
            try:
                difference = relative(float(old[row]), float(new[row]))
            except ValueError:
                difference = math.inf
            if difference > allowed:
                pairs.append((f"line {there.index[row]}, {name}", new[row], old[row]))
            else:
                largest = max(largest, difference)
    return sorted(pairs, key=lambda pair: int(pair[0].split(",")[0][5:])), largest
