"""Images of a generator that a classifier learns from (``[data.generated]``): read and counted out.

They come from a folder with a table of their labels, so it does not matter who generated them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xraygan.errors import UserError, did_you_mean
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.recipe.training_images import GeneratedImages
from xraygan.utils.paths import path_fault
from xraygan.utils.seeding import derive_seed

from .decode import Progress
from .file_digests import content_identity
from .folders import ImageFolder, with_root
from .image_cache import open_store
from .image_splits import ImageSplit, Period, build_split
from .image_store import list_reasons, unreadable_images
from .index import NO_FINDING
from .tables import raise_at_row, read_table

#: what the patient of a generated image begins with: each is a patient of its own
PATIENT = "generated "


@dataclass(frozen=True)
class GeneratedSplit:
    """Generated images to learn from.

    Attributes:
        config: the recipe's table.
        split: the images, each as a patient of its own.
        fingerprint: sha256 over their pixels, paths and labels.
        left_out: images of the table that are not used: reason -> how many.
    """

    config: GeneratedImages
    split: ImageSplit
    fingerprint: str
    left_out: dict[str, int] = field(default_factory=dict)

    def periods(self, real: int, steps: int) -> list[Period]:
        """Which images are drawn from which step on; the real ones come first.

        Args:
            real: the number of real training images.
            steps: of the whole run.
        """
        own = Period(0, range(real, real + len(self.split)))
        if self.config.use == "instead":
            return [own]
        if self.config.use == "before":
            return [own, Period(max(round(self.config.share * steps), 1), range(real))]
        return [Period(0, range(real + len(self.split)))]

    def summary(self) -> dict[str, Any]:
        """What ``environment.json`` says of them."""
        return {
            "images": len(self.split),
            "fingerprint": self.fingerprint,
            "left_out": self.left_out,
        }


def read_generated(
    recipe: Recipe,
    task: Task,
    known: Sequence[str],
    train: ImageSplit,
    measured: Collection[str],
    progress: Progress,
) -> GeneratedSplit:
    """The generated images of a recipe, as many for each real training image as it asks for.

    They are drawn from the table by the run's seed. With exclusive classes each class has its own
    number, so that the classes are as frequent as among the real images.

    Args:
        known: all classes of the dataset.
        train: the real training images.
        measured: the contents of the images that will be measured.

    Raises:
        UserError: the table or an image is at fault, there are too few images, or one of them is an
            image that will be measured.
    """
    config = recipe.tables.data.generated
    assert config is not None
    listed = read_listed(recipe, config, task, known, progress)
    refuse_measured(config, listed, measured)
    chosen = _choose(recipe, config, task, train, listed.split)
    digest = json.dumps([listed.sha256, chosen.paths, chosen.label_matrix.tolist()])
    fingerprint = hashlib.sha256(digest.encode()).hexdigest()
    return GeneratedSplit(config, chosen, fingerprint, listed.left_out)


class ListedImages(NamedTuple):
    """All generated images of a table that can be read and have classes of the recipe.

    Attributes:
        split: the images, each as a patient of its own.
        contents: the identity of each image's content.
        sha256: a digest of the pixels of all images of the table.
        left_out: images of the table that are not used: reason -> how many.
    """

    split: ImageSplit
    contents: list[str]
    sha256: str
    left_out: dict[str, int]


def refuse_measured(
    config: GeneratedImages, listed: ListedImages, measured: Collection[str]
) -> None:
    """Check that no generated image is an image that will be measured.

    Args:
        measured: the contents of the images that will be measured.

    Raises:
        UserError: one is.
    """
    both = [
        path
        for path, content in zip(listed.split.paths, listed.contents, strict=True)
        if content in measured
    ]
    if both:
        raise UserError(
            f"[data.generated] {config.table}: {len(both)} of its images are images that will be "
            f"measured, {both[0]!r} the first; a classifier that learns from them has figures that "
            "are too good. Remove them from the table"
        )


def read_listed(
    recipe: Recipe, config: GeneratedImages, task: Task, known: Sequence[str], progress: Progress
) -> ListedImages:
    """The generated images of a table.

    Args:
        recipe: its ``[data]`` says how images are read.
        known: all classes of the dataset.

    Raises:
        UserError: the table or an image is at fault, or no image is left.
    """
    file = Path(config.table)
    rows, left_out = _read_rows(file, config, task, known)
    if not len(rows):
        why = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise UserError(
            f"[data.generated] {file}: no image to learn from: {why or 'the table has no row'}; "
            f"name images of {', '.join(task.classes)}"
        )
    root, paths = Path(config.root or file.parent), list(rows["path"])
    images = ImageFolder(root, paths)
    store = open_store(with_root(recipe, root, grey="full"), images, paths, progress)
    if store.bad and recipe.tables.data.on_bad_image == "stop":
        raise UserError(f"[data.generated] {unreadable_images(store.bad, len(paths))}")
    readable = np.flatnonzero(~rows["path"].isin(store.bad).to_numpy())
    if not len(readable):
        raise UserError(
            f"[data.generated] {file}: none of its {len(paths)} images can be read:"
            f"{list_reasons(store.bad)}\nReplace them, or name another table"
        )
    if store.bad:
        left_out["images that cannot be read"] = len(store.bad)
    split = build_split(store.pixels, rows, np.ones(len(rows), dtype=bool), task.classes)
    contents = [content_identity(store.contents[row]) for row in readable.tolist()]
    return ListedImages(split.take(readable), contents, store.sha256, left_out)


def _read_rows(
    file: Path, config: GeneratedImages, task: Task, known: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table's rows with the classes of the recipe, and how many others there are.

    Raises:
        UserError: the table cannot be read, or a row has no usable path or an unknown label.
    """
    table = read_table(file, ["path", "label"]).map(str.strip)
    faults = table["path"].map(path_fault)
    raise_at_row(file, table, faults != "", f"the path {next(filter(None, faults), '')}")
    raise_at_row(file, table, table["path"].duplicated(), "this image has a row above; remove one")
    labels: dict[str, tuple[str, ...]] = {}
    for text in table["label"].unique():
        names = tuple(dict.fromkeys(name.strip() for name in text.split(config.separator)))
        for name in names:
            if name not in (*known, NO_FINDING):
                fault = f"the label {name!r} is no class of the dataset; "
                fault += did_you_mean(name, known)
                raise_at_row(file, table, table["label"] == text, fault)
        labels[text] = tuple(name for name in names if name in task.classes)
    named = table["label"].map(labels)
    rows = pd.DataFrame(
        {"path": table["path"], "labels": named, "patient": PATIENT + table["path"]}, dtype=object
    ).assign(age=np.nan, sex="", view="")
    if not task.exclusive:
        return rows.reset_index(drop=True), {}
    one = named.map(len) == 1
    others = int((~one).sum())
    reason = "generated images without exactly one of the classes (data.label_policy)"
    return rows[one].reset_index(drop=True), {reason: others} if others else {}


def _choose(
    recipe: Recipe, config: GeneratedImages, task: Task, train: ImageSplit, images: ImageSplit
) -> ImageSplit:
    """The images to learn from, in an order drawn from the run's seed.

    A smaller ratio takes the first images of a larger one.

    Raises:
        UserError: there are fewer than the ratio asks for, or than a batch needs.
    """
    source = np.random.default_rng(derive_seed(recipe.tables.run.seed, "generated"))
    order = source.permutation(len(images))
    groups = {"": (len(train), np.ones(len(images), dtype=bool))}
    if task.exclusive:
        groups = {
            f" of {name}": (int(train.label_matrix[:, i].sum()), images.label_matrix[:, i] == 1)
            for i, name in enumerate(task.classes)
        }
    taken = []
    for group, (real, member) in groups.items():
        wanted, there = round(config.ratio * real), int(member.sum())
        if wanted > there:
            raise UserError(
                f"[data.generated] {config.table}: {there:,} images{group} for {real:,} real ones, "
                f"and ratio = {config.ratio:g} needs {wanted:,}; add images, or lower the ratio"
            )
        taken.append(order[member[order]][:wanted])
    rows = np.concatenate(taken)
    batch = recipe.tables.run.batch_size
    if config.use != "beside" and len(rows) < batch:
        raise UserError(
            f"[data.generated] ratio = {config.ratio:g} takes {len(rows)} images, fewer than "
            f"[run] batch_size = {batch}; raise the ratio, or lower the batch size"
        )
    return images.take(rows)
