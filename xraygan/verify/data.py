"""A check of the images as they are now against the record of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xraygan.data.datamodule import prepare
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.image_record import data_differences
from xraygan.utils.progress import Display

from .files import RunContent
from .report import Report


def check_data(report: Report, run: RunContent, overrides: Sequence[str], display: Display) -> bool:
    """Compare the images, labels and splits with those that the run started with.

    Args:
        overrides: where the data are now, as ``--set``.

    Returns:
        Whether the data are at hand and the same, so that the evaluation can be repeated.
    """
    where = run.run_dir.path
    recipe = _load(report, run, overrides)
    if recipe is None:
        return False
    root = recipe.tables.data.root
    if root is not None and not Path(root).is_dir():
        report.unchecked(
            where,
            f"the images: there is no folder {root}; give --set data.root=FOLDER where they are",
        )
        return False
    if not run.environment.get("dataset", {}).get("fingerprint"):
        report.unchecked(where, "the images: environment.json records no fingerprint of them")
        return False
    try:
        data = prepare(recipe, display.progress, training=False)
        differences = data_differences(run.run_dir, run.environment, data)
    except UserError as error:
        report.differs(where, f"the images that it records cannot be prepared: {error}")
        return False
    if not differences:
        report.holds(where, f"the images are those that the run recorded ({data.fingerprint[:12]})")
        return True
    for line in differences:
        report.differs(where, f"the images that the run recorded; now: {line}")
    return False


def _load(report: Report, run: RunContent, overrides: Sequence[str]) -> Recipe | None:
    try:
        return load(run.run_dir.recipe, overrides, files=False)
    except UserError as error:
        report.differs(run.run_dir.recipe, f"cannot be loaded by this installation: {error}")
        return None
