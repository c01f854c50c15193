"""A check of the images as they are now against the record of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from xraygan.data.datamodule import open_dataset, prepare
from xraygan.data.index import read_index
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.image_record import data_differences
from xraygan.utils.progress import Display

from .files import RunContent
from .places import GENERATED_ROOT, Place, generated_place, study_of, without_generated
from .report import Report


def check_data(report: Report, run: RunContent, overrides: Sequence[str], display: Display) -> bool:
    """Compare the images, labels and splits with those that the run started with.

    Generated images that the run learned from are compared where they are at hand.

    Args:
        overrides: where the data are now, as ``--set``.

    Returns:
        Whether the images are at hand and the same, so that the evaluation can be repeated.
    """
    where = run.run_dir.path
    recipe = _load(report, run, without_generated(overrides))
    if recipe is None:
        return False
    if (missing := missing_images(recipe)) is not None:
        report.unchecked(where, f"the images: {missing}")
        return False
    if not run.environment.get("dataset", {}).get("fingerprint"):
        report.unchecked(where, "the images: environment.json records no fingerprint of them")
        return False
    try:
        if generated := _generated(report, run, recipe, overrides):
            recipe = load(
                run.run_dir.recipe, (*without_generated(overrides), *generated), files=False
            )
        data = prepare(recipe, display.progress, training=bool(generated))
        differences = data_differences(run.run_dir, run.environment, data)
    except UserError as error:
        report.differs(where, f"the images that it records cannot be prepared: {error}")
        return False
    if not differences:
        kinds = "the images, generated ones too," if generated else "the images"
        report.holds(where, f"{kinds} are those that the run recorded ({data.fingerprint[:12]})")
        return True
    for line in differences:
        report.differs(where, f"the images that the run recorded; now: {line}")
    return False


def missing_images(recipe: Recipe) -> str | None:
    """What is not at hand of the real images of a recipe, and what to do; None if all is."""
    root = recipe.tables.data.root
    if root is None or Path(root).is_dir():
        return None
    try:  # a recipe may inherit a folder that its dataset does not read
        read_index(recipe.choices["data"], open_dataset(recipe))
        return None
    except UserError:
        pass
    return f"there is no folder {root}; give --set data.root=FOLDER where they are"


def missing_generated(place: Place) -> str | None:
    """What is not at hand of generated images, and what to do; None if all is."""
    if not place.root.is_dir():
        return f"there is no folder {place.root}; give --set {GENERATED_ROOT}=FOLDER where they are"
    return None if place.table.is_file() else f"there is no table {place.table} of their labels"


def _generated(
    report: Report, run: RunContent, recipe: Recipe, overrides: Sequence[str]
) -> list[str]:
    """Overrides that say where the generated images of a recipe are now; none without them."""
    if (config := recipe.tables.data.generated) is None:
        return []
    table = Path(config.table)
    recorded = Place(table, Path(config.root or table.parent))
    place = generated_place(recorded, study_of(run.run_dir.path), overrides)
    if (missing := missing_generated(place)) is not None:
        report.unchecked(run.run_dir.path, f"the generated images: {missing}")
        return []
    keys = {"table": str(place.table), "root": str(place.root)}
    return [f"data.generated.{key}={json.dumps(value)}" for key, value in keys.items()]


def _load(report: Report, run: RunContent, overrides: Sequence[str]) -> Recipe | None:
    try:
        return load(run.run_dir.recipe, overrides, files=False)
    except UserError as error:
        report.differs(run.run_dir.recipe, f"cannot be loaded by this installation: {error}")
        return None
