"""The evaluation of a trained run: its figures, its predictions and the report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from xraygan.errors import UserError
from xraygan.evaluation.evaluation import RunEvaluation, evaluate, failure
from xraygan.rundir import completion, digests
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.disk_errors import disk_errors
from xraygan.rundir.image_record import note_use
from xraygan.rundir.provenance import material_changes, read_environment, trained_on
from xraygan.session.session import Session
from xraygan.utils.atomic_files import as_json, write_json, write_together
from xraygan.utils.csv_cells import as_csv


def finalize(session: Session, run_dir: RunDirectory, step: int, *, again: bool) -> None:
    """Evaluate a run after its last step and write its report, unless that was done before.

    Args:
        again: evaluate in any case, because the recipe was changed.
    """
    from xraygan.report.run_report import (
        write_report,  # matplotlib takes seconds to import: only when it is needed
    )

    if again or completion.missing_results(run_dir.path):
        evaluate_run(session, run_dir, step)
    else:  # the run was killed after its evaluation
        write_report(run_dir.path)


def mark_finished(run_dir: RunDirectory, step: int) -> None:
    """Record in ``environment.json`` that a run is finished, its last step and its digests.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    finished = {"step": step, "time": now, digests.KEY: digests.digests_of_run(run_dir, step)}
    write_json(run_dir.environment, {**read_environment(run_dir), "finished": finished})


def evaluate_run(session: Session, run_dir: RunDirectory, step: int) -> Path:
    """Measure the split that the recipe names and write its figures and predictions.

    The files are ``evaluation.json``, ``predictions.csv`` and ``bootstrap.csv``; the report is
    written again. If the run's own recipe names another split, those files are left unchanged, and
    the files of this split are written beside them: ``evaluation-val.json`` and so on.

    Metrics that fail are named in ``evaluation.json``, beside the figures of the others. If an
    earlier evaluation has the figures of all metrics, no file is changed.

    Returns:
        The evaluation's file.

    Raises:
        UserError: metrics failed; the message says which and why.
    """
    from xraygan.report.run_report import write_report

    evaluation = session.evaluation()
    result, resamples, errors = evaluate(evaluation, step)
    is_own_split = evaluation.split == run_dir.split
    files = run_dir if is_own_split else run_dir.of_split(evaluation.split)
    if errors and completion.is_whole(files.evaluation):
        raise_failed(files, errors, f"{files.evaluation} is left unchanged")
    result["protocol"] |= _provenance(session, run_dir, evaluation.test.fingerprint())
    contents = {}
    if "classifier" in session.graph.networks:
        contents[files.predictions] = as_csv(predictions_table(evaluation)).encode()
    if len(resamples):
        contents[files.bootstrap] = as_csv(resamples.round(6)).encode()
    result[digests.KEY] = digests.digests_of_evaluation(run_dir, step, contents)
    contents[files.evaluation] = as_json(result).encode()
    # As soon as the first new file is in its place, these old ones no longer fit it.
    stale = (files.evaluation, files.bootstrap, *((run_dir.report,) if is_own_split else ()))
    with disk_errors(run_dir):
        write_together(contents, remove=stale)
        note_use(run_dir, step, session.data, session.differs)
    if is_own_split:
        write_report(run_dir.path)
    if errors:
        raise_failed(files, errors, f"{files.evaluation} has the figures of the others")
    return files.evaluation


def _provenance(session: Session, run_dir: RunDirectory, images: str) -> dict[str, object]:
    """The keys of an evaluation's ``protocol`` that record its data, checkpoint and recipe.

    Args:
        images: the fingerprint of the measured images.
    """
    data = session.data.fingerprint
    keys: dict[str, object] = {"fingerprint": data, "images_fingerprint": images}
    if (trained := trained_on(run_dir)) not in (None, data):
        keys["trained_on_fingerprint"] = trained
    if session.differs:
        keys["data_differs"] = session.differs
    if left := completion.training_left(run_dir.path):
        keys["unfinished"] = left
    if session.chosen_on:
        keys["chosen_on"] = session.chosen_on
    changed = material_changes(run_dir, session.recipe)
    changed.pop("data.root", None)  # the fingerprint records whether it holds the same images
    if changed:  # by --set: the run's own recipe does not record how this was measured
        keys["changed"] = {key: now for key, (_, now) in changed.items()}
    return keys


def raise_failed(run_dir: RunDirectory, errors: Mapping[str, Exception], result: str) -> NoReturn:
    """Raise one error for the metrics that failed.

    Args:
        result: what became of the evaluation's files, as a clause.

    Raises:
        UserError: it names them. An unexpected error of a built-in metric is raised as it is, with
            its traceback.
    """
    for error in errors.values():
        if not isinstance(error, UserError):
            raise error
    count = f"{len(errors)} metrics" if len(errors) > 1 else "a metric"
    failures = "".join(f"\n  {failure(error)}" for error in errors.values())
    raise UserError(
        f"{run_dir.path}: {count} failed:{failures}\n{result}. Measure again with "
        f"`xraygan evaluate {run_dir.path}`"
    ) from next(iter(errors.values()))


def predictions_table(evaluation: RunEvaluation) -> pd.DataFrame:
    """The content of ``predictions.csv``: one row for each image of the measured split."""
    table: dict[str, Any] = {"path": evaluation.test.paths, "patient": evaluation.patients}
    for name, column in evaluation.classes.items():
        table[f"label:{name}"] = evaluation.labels[:, column]
        table[f"p:{name}"] = evaluation.probs[:, column].round(6)
    return pd.DataFrame(table)
