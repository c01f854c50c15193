"""A recipe's images: chosen, decoded once, split, and held to what a run needs."""

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
import torch
from torch import Tensor

from xraygan.data.split_names import SPLIT_NAMES, SPLITS
from xraygan.errors import UserError
from xraygan.parts.building import build
from xraygan.parts.interfaces import Dataset
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe

from .decode import Progress
from .image_cache import Store, open_store, some_of, unreadable
from .index import check_classes, read_index, read_notes
from .metadata import encode, numbers
from .splits import check_validation, choose, limit, task_of


@dataclass(frozen=True)
class StoredImages:
    """Some rows of a store, in any order, read when they are used.

    Index it as a tensor ``(N, S, S)`` uint8: ``images[3]``, ``images[:64]``, ``images[rows]``.

    Attributes:
        pixels: see :class:`Store`.
        rows: ``(N,)`` int64, the rows of ``pixels``.
    """

    pixels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | slice | Tensor) -> Tensor:
        return self.pixels[self.rows[which]]

    def take(self, rows: Tensor) -> StoredImages:
        """Some of them, not read yet, by their rows ``(n,)`` int64 among these."""
        return StoredImages(self.pixels, self.rows[rows])

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        """What all of them would take in memory."""
        return len(self) * self.pixels.shape[1:].numel()

    def to(self, device: torch.device) -> Tensor:
        """All of them on a device; a few at a time pass through this processor's memory."""
        images = torch.empty((len(self), *self.pixels.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(self), 4096):
            part = slice(start, start + 4096)
            images[part] = self[part].to(device)
        return images


@dataclass
class ImageSplit:
    """The images of one split and what is known of each.

    Attributes:
        images: its rows of the store.
        label_matrix: ``(N, K)`` uint8, 1 where the image has the class.
        metadata: ``age``, ``sex`` and ``view`` as :func:`xraygan.data.metadata.numbers` has them.
    """

    images: StoredImages
    label_matrix: np.ndarray
    patients: np.ndarray
    paths: list[str]
    metadata: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """A sha256 of what its images are: paths, patients, labels and pixels, in their order."""
        rows = [self.paths, self.patients.tolist(), self.label_matrix.tolist()]
        found = hashlib.sha256(json.dumps(rows).encode())
        for start in range(0, len(self), 4096):
            found.update(self.images[start : start + 4096].numpy().data)
        return found.hexdigest()

    def encoded(self, names: Sequence[str]) -> Tensor:
        """What networks are told of that metadata, ``(N, 2 M)``."""
        values = {name: torch.from_numpy(found) for name, found in self.metadata.items()}
        return encode(values, names, len(self))

    def labels(self, *, exclusive: bool) -> Tensor:
        """``(N,)`` int64 class indices, or ``(N, K)`` float32 where several may hold."""
        matrix = torch.from_numpy(self.label_matrix)
        return matrix.argmax(dim=1) if exclusive else matrix.float()


@dataclass
class ImageData:
    """What a recipe's ``[data]`` comes to.

    Attributes:
        fingerprint: sha256 over pixels, labels, patients and splits.
        store: where the pixels are, and what of the table could not be read and was left out.
        warnings: what a reader of the results should know of the data.
        notes: those of them that the dataset plugin says.
        known: of how many training images each of ``[data] metadata`` is known.
        left_out: images and files that are not used: reason -> how many.
    """

    task: Task
    splits: dict[str, ImageSplit]
    fingerprint: str
    store: Store
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Counts of images, patients and classes by split, and of what is left out, for
        ``environment.json``."""
        told = hashlib.sha256()
        for split in self.splits.values():
            told.update(split.encoded(self.task.metadata).numpy().tobytes())
        return {
            "fingerprint": self.fingerprint,
            **({"metadata_fingerprint": told.hexdigest()} if self.task.metadata else {}),
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
                found.kind: {"images": found.count, "first": found.paths}
                for found in self.store.doubtful
            },
        }


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
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
    """Choose a recipe's images, decode them unless that was done before, and split them.

    Args:
        training: whether the recipe is to be trained. A run that is done is not refused for what
            it should not have been trained with.

    Raises:
        UserError: the data is not there, not laid out as it should be, or too little to train on.
    """
    dataset = open_dataset(recipe)
    task = task_of(recipe, dataset)
    index = read_index(recipe.choices["data"], dataset)
    table, left_out = choose(index, task, recipe)
    check_validation(recipe, {*table["split"]}, training=training)
    if training:
        _known(recipe, numbers(table[table["split"] == "train"]))
    store = open_store(recipe, dataset, list(table["path"]), progress)
    bad = store.bad
    if bad and recipe.tables.data.on_bad_image == "stop":
        raise unreadable(bad, len(table))
    lost = table["path"].isin(bad)
    was = Counter(
        name for found in table["labels"][lost & (table["split"] == "train")] for name in found
    )
    table.loc[lost, "split"] = ""
    table["split"] = limit(table, task, recipe)
    beyond = int((table["split"] == "").sum()) - int(lost.sum())
    left_out |= {"images that cannot be read": int(lost.sum())} if bad else {}
    left_out |= {"training images beyond data.limit": beyond} if beyond else {}
    splits = {
        name: _split(store.pixels, table, (table["split"] == name).to_numpy(), task)
        for name in SPLITS
    }
    splits = {n: split for n, split in splits.items() if len(split) or n in ("train", "test")}
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
    _check_amount(recipe, data, was)
    _note_what_is_assumed(recipe, data, index, training)
    return data


def check_index(recipe: Recipe, dataset: Dataset, task: Task) -> None:
    """Refuse, without decoding an image, what the dataset's table cannot give a recipe.

    Raises:
        UserError: there are no validation images, or no metadata, and the recipe needs them.
    """
    words = recipe.tables
    if words.run.keep_best or words.evaluation.split == "val" or words.data.metadata:
        table, _ = choose(read_index(recipe.choices["data"], dataset), task, recipe)
        check_validation(recipe, {*table["split"]}, training=True)
        _known(recipe, numbers(table[table["split"] == "train"]))


def to_range(images: Tensor, span: Sequence[float]) -> Tensor:
    """uint8 images as float32, black at ``span[0]`` and white at ``span[1]``."""
    low, high = span
    return images.float() * ((high - low) / 255.0) + low


def _check_amount(recipe: Recipe, data: ImageData, lost: Mapping[str, int]) -> None:
    """Refuse what nothing can be learned from or measured on, and note what is thin.

    Args:
        lost: class -> unreadable training images of it.
    """
    train, bad = data.splits["train"], data.store.bad
    left_out = f"\n{len(bad)} images cannot be read and are left out:{some_of(bad)}" if bad else ""
    batch = recipe.tables.run.batch_size
    if len(train) < batch:
        raise UserError(
            f"[run] batch_size is {batch}, but only {len(train)} training images are left of the "
            "classes, label policy and limit of [data]; lower the batch size or add images"
            + left_out
        )
    words = recipe.tables.data
    if words.unlabelled and len(data.splits.get("unlabelled", ())) < batch:
        raise UserError(
            f"[data] unlabelled: [run] batch_size is {batch}, and [data] limit leaves fewer "
            "training images than that over; lower one of the two"
        )
    split = recipe.tables.evaluation.split
    if not len(data.splits[split]) and "classifier" in recipe.choices:
        kind = SPLIT_NAMES[split]
        raise UserError(
            f"[data]: no {kind} image is left of the classes of [data] and the protocol of "
            f"[evaluation], and the classifier is measured on {kind} images{left_out}"
        )
    wanted = words.only or data.task.classes
    none = words.limit if isinstance(words.limit, dict) else {}
    for name, column in ((n, data.task.classes.index(n)) for n in wanted):
        if not train.label_matrix[:, column].any() and none.get(name) != 0:
            all_lost = f": {lost[name]} are, and none of them can be read" if lost.get(name) else ""
            raise UserError(
                f"[data] classes: no training image is of class {name!r}{all_lost}"
                + (left_out if all_lost else "")
            )
        for split in ("test", "val"):
            images = data.splits.get(split)
            if images is not None and not images.label_matrix[:, column].any():
                kind = SPLIT_NAMES[split]
                data.warnings.append(f"no {kind} image is of class {name!r}: it has no AUC")
    if bad:
        data.warnings.append(
            f"{len(bad)} of {len(data.store.pixels)} images cannot be read and are left out; "
            f"environment.json names them under dataset, skipped. The first:{some_of(bad, 1)}"
        )
    count = len(data.store.pixels)
    data.warnings += [found.said(count, 3) for found in data.store.doubtful]


def _known(recipe: Recipe, found: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Of how many training images each of ``[data] metadata`` is known.

    Args:
        found: what :func:`xraygan.data.metadata.numbers` has of them.

    Raises:
        UserError: it is known of none, so that networks would be told nothing.
    """
    names: list[str] = [*recipe.tables.data.metadata]
    known = {name: int(np.isfinite(found[name]).sum()) for name in names}
    for name, count in known.items():
        if not count and len(found[name]):
            raise UserError(
                f"[data] metadata: the dataset {recipe.choices['data'].part.name!r} knows the "
                f"{name} of none of its {len(found[name]):,} training images, so networks cannot "
                f"learn from it; remove {name!r} from data.metadata, or have the dataset give it"
            )
    return known


def _note_what_is_assumed(
    recipe: Recipe, data: ImageData, index: pd.DataFrame, training: bool
) -> None:
    """Note what of the data is known in part only, or not as the recipe asks for it."""
    train, words = data.splits["train"], recipe.tables.data
    if training:
        data.known = _known(recipe, train.metadata)
    for name, count in data.known.items():
        values = train.metadata[name][np.isfinite(train.metadata[name])]
        if count < len(train):
            data.warnings.append(f"{name} known of {count:,} of {len(train):,} training images")
        if (values == values[0]).all():
            data.warnings.append(
                f"the {name} is the same in all training images of which it is known, so networks "
                "learn nothing from it"
            )
    own = int((index["split"] == "val").sum())
    if words.validation and own:
        data.warnings.append(
            f"data.validation = {words.validation:g} is not used: the dataset has {own:,} "
            "validation images of its own"
        )
    elif words.validation and "val" not in data.splits:
        data.warnings.append(f"data.validation = {words.validation:g} sets no image aside")


def _split(pixels: Tensor, table: pd.DataFrame, chosen: np.ndarray, task: Task) -> ImageSplit:
    rows = table[chosen]
    # Many images, few combinations of labels.
    kinds = {found: i for i, found in enumerate(dict.fromkeys(rows["labels"]))}
    vectors = [[name in found for name in task.classes] for found in kinds]
    matrix = np.array(vectors, dtype=np.uint8).reshape(-1, len(task.classes))
    return ImageSplit(
        images=StoredImages(pixels, torch.from_numpy(np.flatnonzero(chosen))),
        label_matrix=matrix[[kinds[found] for found in rows["labels"]]],
        patients=rows["patient"].to_numpy(dtype=str),
        paths=list(rows["path"]),
        metadata=numbers(rows),
    )
