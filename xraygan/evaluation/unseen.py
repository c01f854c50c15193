"""Whether the images that a run is measured on are images that it was not trained on."""

from __future__ import annotations

import json

from xraygan.data.datamodule import ImageData, open_dataset
from xraygan.data.image_cache import image_identities
from xraygan.data.index import read_index
from xraygan.data.splits import select_rows, task_of
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.image_record import MEASURED, ImageRecord, trained_on_measured
from xraygan.rundir.provenance import read_environment, trained_on


def check_unseen(run_dir: RunDirectory, recipe: Recipe, data: ImageData) -> None:
    """Refuse data and options of ``[data]`` that make test or validation images of training images.

    Another seed or share of a draw, another column of splits, or a table that was edited moves
    images between splits. An image is the same if its content is.

    Args:
        recipe: the run's, with what ``--set`` changes.
        data: what it comes to.

    Raises:
        UserError: an image that the run was trained on would be measured.
    """
    if data.fingerprint == trained_on(run_dir):
        return  # the same images in the same splits
    record = ImageRecord.read(run_dir)
    if record is None:
        shared, measured = _by_options(run_dir, recipe, data)
    else:
        shared, measured = trained_on_measured(record, *ImageRecord.of(data))
    if not shared:
        return
    if keys := ", ".join(f"data.{key}" for key in _changed(run_dir, recipe)):
        why, remedy = (
            f"{keys} is not what it was when the run was trained",
            "Leave the key as it was",
        )
    else:
        why = "the data have changed since the run was trained"
        remedy = "Put the splits back as they were"
    raise UserError(
        f"{run_dir.path}: it was trained on {len(shared)} of the {measured} images that "
        f"would be measured, {shared[0]!r} the first, because {why}. {remedy}: figures of training "
        "images are too good"
    )


def _changed(run_dir: RunDirectory, recipe: Recipe) -> list[str]:
    """The options of the dataset that are not those of the run."""
    before, now = load(run_dir.recipe, files=False).choices["data"], recipe.choices["data"]
    keys = sorted(before.options.keys() | now.options.keys())
    same_plugin = before.part.name == now.part.name
    return [k for k in keys if same_plugin and before.options.get(k) != now.options.get(k)]


def _by_options(run_dir: RunDirectory, recipe: Recipe, data: ImageData) -> tuple[list[str], int]:
    """:func:`trained_on_measured` of a run that has not recorded its images: by its own recipe,
    which tells its splits as long as the table is the same."""
    own, root = load(run_dir.recipe, files=False), recipe.tables.data.root
    moved = own.tables.data.root != root
    if moved:
        own = load(run_dir.recipe, [f"data.root={json.dumps(root)}"], files=False)
    if not _changed(run_dir, recipe):
        return [], 0
    trained = _trained_on(run_dir, own, moved=moved)
    measured = [path for name in MEASURED for path in getattr(data.splits.get(name), "paths", ())]
    shared = [path for path in measured if path in trained]
    contents = image_identities(recipe, open_dataset(recipe), shared)
    same = [p for p, content in zip(shared, contents, strict=True) if content == trained[p]]
    return same, len(measured)


def _trained_on(run_dir: RunDirectory, own: Recipe, *, moved: bool) -> dict[str, str]:
    """The training images of a run's own recipe: path -> content; empty if the data are others.

    Args:
        moved: whether they are read from another folder, which may hold other data.
    """
    try:
        dataset = open_dataset(own)
        table, _ = select_rows(read_index(own.choices["data"], dataset), task_of(own, dataset), own)
    except UserError:  # a table that the run's own options cannot read is another table
        return {}
    recorded = read_environment(run_dir).get("dataset", {}).get("images", {})
    if moved and recorded.get("test") != int((table["split"] == "test").sum()):
        return {}
    paths = list(table["path"][table["split"] == "train"])
    return dict(zip(paths, image_identities(own, dataset, paths), strict=True))
