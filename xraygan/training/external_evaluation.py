"""The files of an external test set in a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.evaluation.evaluation import evaluate
from xraygan.evaluation.external import EXTERNAL
from xraygan.rundir import completion, file_readers
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.disk_errors import disk_errors
from xraygan.rundir.provenance import material_changes
from xraygan.session.external import ExternalTest
from xraygan.utils.atomic_files import as_json, write_together
from xraygan.utils.csv_cells import as_csv

from .final_evaluation import predictions_table, raise_failed


def evaluate_external(test: ExternalTest, name: str) -> Path:
    """Measure an external test set and write its files beside those of the run's own images.

    They are ``evaluation-NAME.json``, ``predictions-NAME.csv`` and ``bootstrap-NAME.csv``; the
    report is written again.

    Args:
        name: see :func:`xraygan.rundir.external_files.check_external_name`.

    Returns:
        The evaluation's file.

    Raises:
        UserError: there are figures of other images under this name, or metrics failed.
    """
    from xraygan.report.run_report import write_report

    run_dir, images = test.run_dir, test.images
    files = run_dir.of_split(name)
    fingerprint = images.split.fingerprint()
    check_same_images(files, fingerprint)
    evaluation = test.evaluation()
    result, resamples, errors = evaluate(evaluation, test.step)
    if errors and completion.is_whole(files.evaluation):
        raise_failed(files, errors, f"{files.evaluation} is left unchanged")
    result["protocol"] |= {
        "generated": 0,
        "images_fingerprint": fingerprint,
        **_provenance(test),
        EXTERNAL: {
            "name": name,
            "dataset": images.dataset,
            "root": str(Path(test.recipe.tables.data.root or "").resolve()),
            "classes": images.classes,
            "lacking": list(images.lacking),
            "left_out": images.left_out,
            "checked": test.checked,
        },
    }
    contents = {files.predictions: as_csv(predictions_table(evaluation)).encode()}
    if len(resamples):
        contents[files.bootstrap] = as_csv(resamples.round(6)).encode()
    contents[files.evaluation] = as_json(result).encode()
    with disk_errors(run_dir):
        write_together(contents, remove=(files.evaluation, files.bootstrap))
    write_report(run_dir.path)
    if errors:
        raise_failed(files, errors, f"{files.evaluation} has the figures of the others")
    return files.evaluation


def check_same_images(files: RunDirectory, fingerprint: str) -> None:
    """Check that no figures of other images are in the files.

    Raises:
        UserError: there are, or they cannot be read.
    """
    remedy = "move the file away, and measure again"
    try:
        found = file_readers.needed(files.evaluation, file_readers.evaluation, remedy)
        before: dict[str, Any] = found.get("protocol", {})
    except FileNotFoundError:
        return
    if before.get("images_fingerprint") != fingerprint:
        where = before.get(EXTERNAL) or {}
        raise UserError(
            f"{files.evaluation}: it has the figures of other images, or of other labels of them "
            f"({before.get('images')} images of {where.get('dataset', before.get('dataset'))}); "
            "choose another name for --external, or move the file away"
        )


def _provenance(test: ExternalTest) -> dict[str, object]:
    """The keys of the protocol that record the checkpoint and what --set changed."""
    keys: dict[str, object] = {}
    if left := completion.training_left(test.run_dir.path):
        keys["unfinished"] = left
    if test.session.chosen_on:
        keys["chosen_on"] = test.session.chosen_on
    changed = material_changes(test.run_dir, test.session.recipe)
    if changed:
        keys["changed"] = {key: now for key, (_, now) in changed.items()}
    return keys
