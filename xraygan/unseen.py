"""Whether the images that a run is measured on are images that it was not trained on."""

from __future__ import annotations

import json

from .errors import UserError
from .index import read_index
from .recipe import Recipe, load
from .resuming import read_environment
from .rundir import RunDirectory
from .selection import choose, task_of
from .store import ImageData, open_dataset
from .stored import contents_of

MEASURED = ("test", "val")


def check_unseen(place: RunDirectory, recipe: Recipe, data: ImageData) -> None:
    """Refuse options of ``[data]`` that make test or validation images of training images.

    Another seed or share of a draw, or another column of splits, moves images of one data set
    between its splits. An image counts as the same if its path and its content are.

    Args:
        recipe: the run's, with what ``--set`` changes.
        data: what it comes to.

    Raises:
        UserError: an image that the run was trained on would be measured.
    """
    own, root = load(place.recipe, files=False), recipe.tables.data.root
    moved = own.tables.data.root != root
    if moved:
        own = load(place.recipe, [f"data.root={json.dumps(root)}"], files=False)
    before, now = own.choices["data"], recipe.choices["data"]
    changed = sorted(
        key
        for key in before.options.keys() | now.options.keys()
        if before.options.get(key) != now.options.get(key)
    )
    if before.part.name != now.part.name or not changed:
        return
    trained = _trained_on(place, own, moved=moved)
    measured = [path for name in MEASURED for path in getattr(data.splits.get(name), "paths", ())]
    shared = [path for path in measured if path in trained]
    if shared:
        contents = contents_of(recipe, open_dataset(recipe), shared)
        shared = [p for p, content in zip(shared, contents, strict=True) if content == trained[p]]
    if shared:
        keys = ", ".join(f"data.{key}" for key in changed)
        raise UserError(
            f"{place.path}: it was trained on {len(shared)} of the {len(measured)} images that "
            f"would be measured, {shared[0]!r} the first, because {keys} is not what it was when "
            "the run was trained. Leave the key as it was: figures of training images are too good"
        )


def _trained_on(place: RunDirectory, own: Recipe, *, moved: bool) -> dict[str, str]:
    """The training images of a run's own recipe: path -> content; empty if the data are others.

    Args:
        moved: whether they are read from another folder, which may hold other data.
    """
    try:
        dataset = open_dataset(own)
        table, _ = choose(read_index(own.choices["data"], dataset), task_of(own, dataset), own)
    except UserError:  # a table that the run's own options cannot read is another table
        return {}
    recorded = read_environment(place).get("dataset", {}).get("images", {})
    if moved and recorded.get("test") != int((table["split"] == "test").sum()):
        return {}
    paths = list(table["path"][table["split"] == "train"])
    return dict(zip(paths, contents_of(own, dataset, paths), strict=True))
