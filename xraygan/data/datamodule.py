"""The data module: a recipe's images, selected, decoded once, split, and checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from xraygan.errors import UserError
from xraygan.parts.building import build
from xraygan.parts.interfaces import Dataset
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe

from .decode import Progress
from .file_digests import content_identity
from .generated import GeneratedSplit, read_generated
from .image_cache import open_store
from .image_splits import ImageSplit, build_split
from .image_store import Store, list_reasons, unreadable_images
from .index import check_classes, read_index, read_notes
from .metadata import metadata_columns
from .split_names import MEASURED, SPLIT_NAMES, SPLITS
from .splits import apply_limit, check_validation, select_rows, task_of


@dataclass
class ImageData:
    """The images that a recipe's ``[data]`` selects, by split.

    Attributes:
        fingerprint: sha256 over pixels, labels, patients and splits.
        store: the store with the pixels, which also lists the images that cannot be read.
        warnings: sentences that a reader of the results should know of the data.
        notes: those of the warnings that come from the dataset plugin.
        known: for each of ``[data] metadata``, the number of training images that have it.
        left_out: images and files that are not used: reason -> how many.
        generated: generated images to learn from, if the recipe has some and is to be trained.
    """

    task: Task
    splits: dict[str, ImageSplit]
    fingerprint: str
    store: Store
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    generated: GeneratedSplit | None = None

    def measured_contents(self) -> set[str]:
        """The identities of the images that are measured, in training or after it."""
        splits = [split for name, split in self.splits.items() if name in MEASURED]
        rows = [row for split in splits for row in split.images.rows.tolist()]
        return {content_identity(self.store.contents[row]) for row in rows}

    def summary(self) -> dict[str, Any]:
        """Counts of images, patients and classes by split, and of what is left out, for
        ``environment.json``."""
        metadata_digest = hashlib.sha256()
        for split in self.splits.values():
            metadata_digest.update(split.encoded(self.task.metadata).numpy().tobytes())
        return {
            "fingerprint": self.fingerprint,
            **({"metadata_fingerprint": metadata_digest.hexdigest()} if self.task.metadata else {}),
            **({"generated": self.generated.summary()} if self.generated else {}),
            "images": {name: len(split) for name, split in self.splits.items()},
            "patients": {n: len(set(split.patients)) for n, split in self.splits.items()},
            "classes": {
                name: {
                    label: int(count)
                    for label, count in zip(
                        self.task.classes, split.label_matrix.sum(axis=0), strict=True
                    )
                }
                for name, split in self.splits.items()
            },
            "metadata": self.known,
            "left_out": self.left_out,
            "notes": self.notes,
            "skipped": self.store.bad,
            "doubtful": {
                doubtful.kind: {"images": doubtful.count, "first": doubtful.paths}
                for doubtful in self.store.doubtful
            },
        }


@contextmanager
def no_progress(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """The silent :data:`Progress`."""
    yield lambda count: None


def open_dataset(recipe: Recipe) -> Dataset:
    """The recipe's dataset plugin, over its root folder."""
    root, choice = recipe.tables.data.root, recipe.choices["data"]
    dataset = build(choice, None if root is None else Path(root))
    check_classes(choice, dataset)
    return dataset


def prepare(
    recipe: Recipe, progress: Progress = no_progress, *, training: bool = True
) -> ImageData:
    """Select a recipe's images, decode them unless a store has them, and split them.

    The order of these steps matters: the whole table is decoded before ``[data] limit`` leaves
    images out, so that recipes with other limits use the same store, and an image that cannot be
    read does not count towards a limit.

    Args:
        training: whether the recipe is to be trained. A finished run is not refused for data that
            it should not have been trained with.

    Raises:
        UserError: the data does not exist, has another layout, or is too little to train on.
    """
    dataset = open_dataset(recipe)
    task = task_of(recipe, dataset)
    index = read_index(recipe.choices["data"], dataset)
    table, left_out = select_rows(index, task, recipe)
    check_validation(recipe, {*table["split"]}, training=training)
    if training:
        _count_known(recipe, metadata_columns(table[table["split"] == "train"]))
    store = open_store(recipe, dataset, list(table["path"]), progress)
    bad = store.bad
    if bad and recipe.tables.data.on_bad_image == "stop":
        raise unreadable_images(bad, len(table))
    is_bad = table["path"].isin(bad)
    bad_labels = table["labels"][is_bad & (table["split"] == "train")]
    bad_by_class = Counter(name for labels in bad_labels for name in labels)
    table.loc[is_bad, "split"] = ""
    table["split"] = apply_limit(table, task, recipe)
    beyond = int((table["split"] == "").sum()) - int(is_bad.sum())
    left_out |= {"images that cannot be read": int(is_bad.sum())} if bad else {}
    left_out |= {"training images beyond data.limit": beyond} if beyond else {}
    splits = _build_splits(store.pixels, table, task)
    check_validation(recipe, splits, training=training)
    kept = table.loc[table["split"] != "", ["path", "labels", "patient", "split"]]
    rows = json.dumps([kept[column].tolist() for column in kept])
    fingerprint = hashlib.sha256(f"{store.sha256}{rows}".encode()).hexdigest()
    counts = tuple(splits["train"].label_matrix.sum(axis=0).tolist())
    task = replace(task, counts=counts, images=len(splits["train"]))
    notes, without = read_notes(recipe.choices["data"], dataset)
    data = ImageData(task, splits, fingerprint, store, notes=notes)
    data.left_out = {**without, **left_out}
    data.warnings += data.notes
    _check_enough_images(recipe, data, bad_by_class)
    _warn_of_gaps(recipe, data, index, training)
    if training and recipe.tables.data.generated:
        data.generated = read_generated(
            recipe, task, dataset.classes, splits["train"], data.measured_contents(), progress
        )
    return data


def check_index(recipe: Recipe, dataset: Dataset, task: Task) -> None:
    """Check, without decoding an image, that the dataset's table has what a recipe needs.

    Raises:
        UserError: there are no validation images, or no metadata, and the recipe needs them.
    """
    config = recipe.tables
    if config.run.keep_best or config.evaluation.split == "val" or config.data.metadata:
        table, _ = select_rows(read_index(recipe.choices["data"], dataset), task, recipe)
        check_validation(recipe, {*table["split"]}, training=True)
        _count_known(recipe, metadata_columns(table[table["split"] == "train"]))


def to_range(images: Tensor, span: Sequence[float]) -> Tensor:
    """uint8 images as float32, black at ``span[0]`` and white at ``span[1]``."""
    low, high = span
    return images.float() * ((high - low) / 255.0) + low


def _check_enough_images(recipe: Recipe, data: ImageData, bad_by_class: Mapping[str, int]) -> None:
    """Check that there are enough images to train and to measure, and warn of missing ones.

    Args:
        bad_by_class: class -> unreadable training images of it.

    Raises:
        UserError: there are fewer training images than a batch, or none of a class or of the
            measured split.
    """
    train, bad = data.splits["train"], data.store.bad
    left_out = ""
    if bad:
        left_out = f"\n{len(bad)} images cannot be read and are left out:{list_reasons(bad)}"
    batch = recipe.tables.run.batch_size
    if len(train) < batch:
        raise UserError(
            f"[run] batch_size is {batch}, but only {len(train)} training images remain after the "
            "classes, label_policy and limit of [data]; lower the batch size or add images"
            + left_out
        )
    config = recipe.tables.data
    if config.unlabelled and len(data.splits.get("unlabelled", ())) < batch:
        raise UserError(
            f"[data] unlabelled: [run] batch_size is {batch}, and [data] limit leaves fewer "
            "unlabelled images than that; lower one of the two"
        )
    split = recipe.tables.evaluation.split
    if not len(data.splits[split]) and "classifier" in recipe.choices:
        kind = SPLIT_NAMES[split]
        raise UserError(
            f"[data]: no {kind} image remains after the classes of [data] and the protocol of "
            f"[evaluation], and the classifier is measured on {kind} images{left_out}"
        )
    limits = config.limit if isinstance(config.limit, dict) else {}
    for name, column in ((n, data.task.classes.index(n)) for n in config.only or data.task.classes):
        if not train.label_matrix[:, column].any() and limits.get(name) != 0:
            count = bad_by_class.get(name)
            all_bad = f": {count} are, and none of them can be read" if count else ""
            raise UserError(
                f"[data] classes: no training image is of class {name!r}{all_bad}"
                + (left_out if all_bad else "")
            )
        for split in ("test", "val"):
            images = data.splits.get(split)
            if images is not None and not images.label_matrix[:, column].any():
                kind = SPLIT_NAMES[split]
                data.warnings.append(f"no {kind} image is of class {name!r}: it has no AUC")


def _count_known(recipe: Recipe, columns: Mapping[str, np.ndarray]) -> dict[str, int]:
    """For each of ``[data] metadata``, the number of training images that have it.

    Args:
        columns: their metadata, as :func:`xraygan.data.metadata.metadata_columns` gives it.

    Raises:
        UserError: no image has it, so networks could not learn from it.
    """
    names: list[str] = [*recipe.tables.data.metadata]
    known = {name: int(np.isfinite(columns[name]).sum()) for name in names}
    for name, count in known.items():
        if not count and len(columns[name]):
            raise UserError(
                f"[data] metadata: the dataset {recipe.choices['data'].part.name!r} knows the "
                f"{name} of none of its {len(columns[name]):,} training images, so networks cannot "
                f"learn from it; remove {name!r} from data.metadata, or add it to the dataset"
            )
    return known


def _warn_of_gaps(recipe: Recipe, data: ImageData, index: pd.DataFrame, training: bool) -> None:
    """Warn of images that cannot be read or may be ruined, of metadata that is known in part, and
    of keys of ``[data]`` that have no effect."""
    count, bad = len(data.store.pixels), data.store.bad
    if bad:
        data.warnings.append(
            f"{len(bad)} of {count} images cannot be read and are left out; "
            f"environment.json names them under dataset, skipped. The first:{list_reasons(bad, 1)}"
        )
    data.warnings += [doubtful.describe(count, 3) for doubtful in data.store.doubtful]
    train, config = data.splits["train"], recipe.tables.data
    if training:
        data.known = _count_known(recipe, train.metadata)
    for name, count in data.known.items():
        values = train.metadata[name][np.isfinite(train.metadata[name])]
        if count < len(train):
            data.warnings.append(
                f"the {name} is known for {count:,} of {len(train):,} training images"
            )
        if (values == values[0]).all():
            data.warnings.append(
                f"the {name} is the same in all training images that have it, so networks learn "
                "nothing from it"
            )
    own = int((index["split"] == "val").sum())
    if config.validation and own:
        data.warnings.append(
            f"data.validation = {config.validation:g} is not used: the dataset has {own:,} "
            "validation images of its own"
        )
    elif config.validation and "val" not in data.splits:
        data.warnings.append(f"data.validation = {config.validation:g} sets no image aside")


def _build_splits(pixels: Tensor, table: pd.DataFrame, task: Task) -> dict[str, ImageSplit]:
    """The splits by name; validation and unlabelled images only if there are any."""
    splits = {
        name: build_split(pixels, table, (table["split"] == name).to_numpy(), task.classes)
        for name in SPLITS
    }
    return {n: split for n, split in splits.items() if len(split) or n in ("train", "test")}
