"""The end of a run: what is measured of it, written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd

from .errors import UserError
from .evaluate import Evaluation, evaluate, failure
from .resuming import material_changes, trained_on
from .rundir import RunDirectory, write_json, write_table

if TYPE_CHECKING:
    from .engine import Session


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
    from .report import write_report  # matplotlib takes seconds to import: only when it is needed

    evaluation, fingerprint = session.evaluation(), session.data.fingerprint
    result, resamples, errors = evaluate(evaluation, step)
    own = evaluation.split == place.split
    files = place if own else place.of_split(evaluation.split)
    if errors and files.is_measured():
        _say_failed(files, errors, f"{files.evaluation} is left as it was")
    result["protocol"]["fingerprint"] = fingerprint
    result["protocol"]["images_fingerprint"] = evaluation.test.fingerprint()
    trained = trained_on(place)
    if trained not in (None, fingerprint):
        result["protocol"]["trained_on_fingerprint"] = trained
    if session.chosen_on:
        result["protocol"]["chosen_on"] = session.chosen_on
    changed = material_changes(place, session.recipe)
    changed.pop("data.root", None)  # whether it holds the same images, the fingerprint says
    if changed:  # by --set: the run's own recipe does not tell how this was measured
        result["protocol"]["changed"] = {key: now for key, (_, now) in changed.items()}
    if "classifier" in session.graph.networks:
        write_table(files.predictions, predictions(evaluation))
    files.bootstrap.unlink(missing_ok=True)  # an earlier evaluation's are of other figures
    if len(resamples):
        write_table(files.bootstrap, resamples.round(6))
    write_json(files.evaluation, result)
    if own:
        write_report(place.path)
    if errors:
        _say_failed(files, errors, f"{files.evaluation} has the figures of the others")
    return files.evaluation


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


def predictions(evaluation: Evaluation) -> pd.DataFrame:
    """One row a test image (or validation image): the content of ``predictions.csv``."""
    table: dict[str, Any] = {"path": evaluation.test.paths, "patient": evaluation.patients}
    for name, column in evaluation.classes.items():
        table[f"label:{name}"] = evaluation.labels[:, column]
        table[f"p:{name}"] = evaluation.probs[:, column].round(6)
    return pd.DataFrame(table)
