"""A check that a run is not measured on images that it was trained on."""

from __future__ import annotations

import json

import numpy as np

from xraygan.data.datamodule import ImageData, open_dataset
from xraygan.data.image_cache import image_identities
from xraygan.data.index import read_index
from xraygan.data.split_names import LEARNED, MEASURED
from xraygan.data.splits import select_rows, task_of
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.image_record import ImageRecord, content_digests, trained_on_measured
from xraygan.rundir.provenance import read_environment, trained_on


def check_unseen(run_dir: RunDirectory, recipe: Recipe, data: ImageData) -> None:
    """Refuse data and options of ``[data]`` that turn training images into measured images.

    Another seed or share of a draw, another column of splits, or an edited table moves images
    between splits. Images are the same if their contents are.

    Args:
        recipe: the run's recipe, with the changes of ``--set``.
        data: the images of the recipe.

    Raises:
        UserError: an image that the run was trained on would be measured.
    """
    if data.fingerprint == trained_on(run_dir):
        return  # the same images in the same splits
    record = ImageRecord.read(run_dir)
    if record is None:
        shared, measured = _trained_on_by_recipe(run_dir, recipe, data)
    else:
        shared, measured = trained_on_measured(record, *ImageRecord.of(data))
    if not shared:
        return
    if keys := ", ".join(f"data.{key}" for key in _changed_options(run_dir, recipe)):
        reason, remedy = f"{keys} was changed after the run was trained", "Restore the old value"
    else:
        reason, remedy = "the data were changed after the run was trained", "Restore the splits"
    raise UserError(
        f"{run_dir.path}: the run was trained on {len(shared)} of the {measured} images that would "
        f"be measured, {shared[0]!r} the first, because {reason}. {remedy}, since figures of "
        "training images are too good"
    )


def check_external(run_dir: RunDirectory, contents: list[str], paths: list[str]) -> bool:
    """Refuse an external test set with images that the run learned from or chose by.

    Images are the same if their files are; the same picture in another file is not found.

    Args:
        contents: the identity of each image's content.
        paths: of the images, for the message.

    Returns:
        Whether it could be checked: a run of a former version did not record its images.

    Raises:
        UserError: some of the images are training or validation images of the run.
    """
    record = ImageRecord.read(run_dir)
    if record is None:
        return False
    known = record.content[record.in_splits((*LEARNED, "val"))]
    shared = np.flatnonzero(np.isin(content_digests(contents), known))
    if len(shared):
        raise UserError(
            f"{len(shared):,} of the {len(paths):,} external images are training or validation "
            f"images of {run_dir.path}, {paths[shared[0]]!r} the first, so figures of them are too "
            "good. Take them out of the external data, or measure its test images without "
            "--all-images"
        )
    return True


def _changed_options(run_dir: RunDirectory, recipe: Recipe) -> list[str]:
    """The options of the dataset that differ from the run's."""
    before, after = load(run_dir.recipe, files=False).choices["data"], recipe.choices["data"]
    keys = sorted(before.options.keys() | after.options.keys())
    same_plugin = before.part.name == after.part.name
    return [k for k in keys if same_plugin and before.options.get(k) != after.options.get(k)]


def _trained_on_by_recipe(
    run_dir: RunDirectory, recipe: Recipe, data: ImageData
) -> tuple[list[str], int]:
    """:func:`trained_on_measured` for a run without an image record.

    The splits follow from the run's own recipe, as long as the table is the same.
    """
    run_recipe, root = load(run_dir.recipe, files=False), recipe.tables.data.root
    moved = run_recipe.tables.data.root != root
    if moved:
        run_recipe = load(run_dir.recipe, [f"data.root={json.dumps(root)}"], files=False)
    if not _changed_options(run_dir, recipe):
        return [], 0
    trained = _training_images(run_dir, run_recipe, moved=moved)
    measured = [path for name in MEASURED for path in getattr(data.splits.get(name), "paths", ())]
    shared = [path for path in measured if path in trained]
    contents = image_identities(recipe, open_dataset(recipe), shared)
    same = [p for p, content in zip(shared, contents, strict=True) if content == trained[p]]
    return same, len(measured)


def _training_images(run_dir: RunDirectory, run_recipe: Recipe, *, moved: bool) -> dict[str, str]:
    """The training images of a run's own recipe: path -> content; empty for other data.

    Args:
        moved: whether the images are read from another folder, which may hold other data.
    """
    try:
        dataset = open_dataset(run_recipe)
        index = read_index(run_recipe.choices["data"], dataset)
        table, _ = select_rows(index, task_of(run_recipe, dataset), run_recipe)
    except UserError:  # the run's options cannot read the table, so it is another one
        return {}
    recorded = read_environment(run_dir).get("dataset", {}).get("images", {})
    if moved and recorded.get("test") != int((table["split"] == "test").sum()):
        return {}
    paths = list(table["path"][table["split"] == "train"])
    return dict(zip(paths, image_identities(run_recipe, dataset, paths), strict=True))
