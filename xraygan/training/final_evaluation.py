"""The end of a run, and what is measured of it later: figures, predictions, the report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd

from xraygan.errors import UserError
from xraygan.evaluation.evaluation import RunEvaluation, evaluate, failure
from xraygan.rundir import completion as ending
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.disk_errors import disk_errors
from xraygan.rundir.image_record import note_use
from xraygan.rundir.provenance import material_changes, read_environment, trained_on
from xraygan.utils.atomic_files import as_json, write_json, write_together
from xraygan.utils.csv_cells import as_csv

if TYPE_CHECKING:
    from xraygan.session.session import Session


def end(session: Session, place: RunDirectory, step: int, *, anew: bool) -> None:
    """What follows a run's last step, as far as it is not there.

    Args:
        anew: measure in any case, since the recipe was changed.
    """
    from xraygan.report.run_report import (
        write_report,  # matplotlib takes seconds to import: only when it is needed
    )

    if anew or ending.missing_results(place.path):
        finish(session, place, step)
    else:  # the run was killed after its figures
        write_report(place.path)


def mark(place: RunDirectory, step: int) -> None:
    """Note in ``environment.json`` that a run is done, after its last step.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {**read_environment(place), "finished": {"step": step, "time": now}}
    write_json(place.environment, content)


def finish(session: Session, place: RunDirectory, step: int) -> Path:
    """Measure the split that the recipe names and write its figures and predictions.

    The files are ``evaluation.json``, ``predictions.csv`` and ``bootstrap.csv``, and the report is
    written anew. If the run was trained to be measured on another split, these are left as they
    are, and the split's files are written beside: ``evaluation-val.json`` and so on.

    Metrics that fail are named in ``evaluation.json``, beside the figures of the others. If that
    file has the figures of all of them, from an earlier evaluation, every file is left as it is.

    Returns:
        The evaluation's file.

    Raises:
        UserError: metrics failed; the message says which and why.
    """
    from xraygan.report.run_report import write_report

    evaluation = session.evaluation()
    result, resamples, errors = evaluate(evaluation, step)
    own = evaluation.split == place.split
    files = place if own else place.of_split(evaluation.split)
    if errors and ending.is_whole(files.evaluation):
        _say_failed(files, errors, f"{files.evaluation} is left as it was")
    result["protocol"] |= _provenance(session, place, evaluation.test.fingerprint())
    written = {}
    if "classifier" in session.graph.networks:
        written[files.predictions] = as_csv(predictions(evaluation)).encode()
    if len(resamples):
        written[files.bootstrap] = as_csv(resamples.round(6)).encode()
    written[files.evaluation] = as_json(result).encode()
    # What is there is of other figures, from the moment when the first of these is moved.
    stale = (files.evaluation, files.bootstrap, *((place.report,) if own else ()))
    with disk_errors(place):
        write_together(written, remove=stale)
        note_use(place, step, session.data, session.differs)
    if own:
        write_report(place.path)
    if errors:
        _say_failed(files, errors, f"{files.evaluation} has the figures of the others")
    return files.evaluation


def _provenance(session: Session, place: RunDirectory, images: str) -> dict[str, object]:
    """What a protocol says of the data, the checkpoint and the recipe that figures are of.

    Args:
        images: the fingerprint of those that were measured.
    """
    data = session.data.fingerprint
    said: dict[str, object] = {"fingerprint": data, "images_fingerprint": images}
    if (trained := trained_on(place)) not in (None, data):
        said["trained_on_fingerprint"] = trained
    if session.differs:
        said["data_differs"] = session.differs
    if left := ending.training_left(place.path):
        said["unfinished"] = left
    if session.chosen_on:
        said["chosen_on"] = session.chosen_on
    changed = material_changes(place, session.recipe)
    changed.pop("data.root", None)  # whether it holds the same images, the fingerprint says
    if changed:  # by --set: the run's own recipe does not tell how this was measured
        said["changed"] = {key: now for key, (_, now) in changed.items()}
    return said


def _say_failed(place: RunDirectory, errors: Mapping[str, Exception], kept: str) -> NoReturn:
    """Say which metrics failed.

    Raises:
        UserError: naming them. What a built-in one raises is ours to mend, and its traceback seen.
    """
    for error in errors.values():
        if not isinstance(error, UserError):
            raise error
    count = f"{len(errors)} metrics" if len(errors) > 1 else "a metric"
    said = "".join(f"\n  {failure(error)}" for error in errors.values())
    raise UserError(
        f"{place.path}: {count} failed:{said}\n{kept}. Measure again with "
        f"`xraygan evaluate {place.path}`"
    ) from next(iter(errors.values()))


def predictions(evaluation: RunEvaluation) -> pd.DataFrame:
    """One row a test image (or validation image): the content of ``predictions.csv``."""
    table: dict[str, Any] = {"path": evaluation.test.paths, "patient": evaluation.patients}
    for name, column in evaluation.classes.items():
        table[f"label:{name}"] = evaluation.labels[:, column]
        table[f"p:{name}"] = evaluation.probs[:, column].round(6)
    return pd.DataFrame(table)
