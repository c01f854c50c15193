"""A recipe's images, decoded once into a memory-mapped uint8 store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from .assemble import build
from .decode import Progress, decode
from .errors import UserError
from .interfaces import Dataset, Task
from .recipe import Recipe
from .selection import SPLITS, choose, limit, task_of

#: raised whenever the same file would be decoded to other bytes
STORE_VERSION = 3


@dataclass(frozen=True)
class Store:
    """All images of a recipe's table, decoded.

    Attributes:
        folder: where they are kept.
        pixels: ``(M, S, S)`` uint8, mapped into memory: read from the disk when they are used.
        sha256: a digest of the pixels.
        bad: unreadable images, which are black here: path -> reason.
        seconds: how long decoding them took; None where that had been done before.
    """

    folder: Path
    pixels: Tensor
    sha256: str
    bad: dict[str, str]
    seconds: float | None

    def account(self) -> str:
        """What was done, what is left out and where the store is, in a few lines."""
        count, size = self.pixels.shape[:2]
        if self.seconds is None:
            done = "are there already"
        else:
            done = f"decoded in {self.seconds:.1f} s: {count / self.seconds:,.0f} images/s"
        lines = f"{count:,} images of {size} x {size} {done}"
        if self.bad:
            lines += f"\n{len(self.bad)} of them cannot be read and are left out:"
            lines += some_of(self.bad, 20)
        return f"{lines}\n{self.folder}"


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
        metadata: ``age`` in years (NaN if unknown) and ``sex`` (1 male, 0 female, NaN), ``(N,)``.
    """

    images: StoredImages
    label_matrix: np.ndarray
    patients: np.ndarray
    paths: list[str]
    metadata: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

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
    """

    task: Task
    splits: dict[str, ImageSplit]
    fingerprint: str
    store: Store
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Counts of images, patients and classes by split, for ``environment.json``."""
        return {
            "fingerprint": self.fingerprint,
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
            "skipped": self.store.bad,
        }


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """The silent :data:`Progress`."""
    yield lambda count: None


def open_dataset(recipe: Recipe) -> Dataset:
    """The recipe's dataset plugin, over its root folder."""
    root = recipe.tables.data.root
    return build(recipe.choices["data"], None if root is None else Path(root))


def prepare(recipe: Recipe, progress: Progress = no_progress) -> ImageData:
    """Choose a recipe's images, decode them unless that was done before, and split them.

    Raises:
        UserError: the data is not there, not laid out as it should be, or too little to train on.
    """
    dataset = open_dataset(recipe)
    task = task_of(recipe, dataset)
    table = choose(dataset.index(), task, recipe)
    store = _open_store(recipe, dataset, table, progress)
    bad = store.bad
    if bad and recipe.tables.data.on_bad_image == "stop":
        raise UserError(
            f"{len(bad)} of {len(table)} images cannot be read:{some_of(bad)}\n"
            'Replace them, or leave them out with --set data.on_bad_image="skip"'
        )
    table.loc[table["path"].isin(bad), "split"] = ""
    table["split"] = limit(table, task, recipe)
    splits = {
        name: _split(store.pixels, table, (table["split"] == name).to_numpy(), task)
        for name in SPLITS
    }
    splits = {n: split for n, split in splits.items() if len(split) or n in ("train", "test")}
    kept = table.loc[table["split"] != "", ["path", "labels", "patient", "split"]]
    rows = json.dumps([kept[column].tolist() for column in kept])
    fingerprint = hashlib.sha256(f"{store.sha256}{rows}".encode()).hexdigest()
    counts = tuple(splits["train"].label_matrix.sum(axis=0).tolist())
    task = replace(task, counts=counts, images=len(splits["train"]))
    data = ImageData(task, splits, fingerprint, store)
    _check_amount(recipe, data)
    return data


def to_range(images: Tensor, span: Sequence[float]) -> Tensor:
    """uint8 images as float32, black at ``span[0]`` and white at ``span[1]``."""
    low, high = span
    return images.float() * ((high - low) / 255.0) + low


def _check_amount(recipe: Recipe, data: ImageData) -> None:
    train, test = data.splits["train"], data.splits["test"]
    batch = recipe.tables.run.batch_size
    if len(train) < batch:
        raise UserError(
            f"[run] batch_size is {batch}, but only {len(train)} training images are left of the "
            "classes, label policy and limit of [data]; lower the batch size or add images"
        )
    words = recipe.tables.data
    if words.unlabelled and len(data.splits.get("unlabelled", ())) < batch:
        raise UserError(
            f"[data] unlabelled: [run] batch_size is {batch}, and [data] limit leaves fewer "
            "training images than that over; lower one of the two"
        )
    wanted = words.only or data.task.classes
    none = words.limit if isinstance(words.limit, dict) else {}
    for name, column in ((n, data.task.classes.index(n)) for n in wanted):
        if not train.label_matrix[:, column].any() and none.get(name) != 0:
            raise UserError(f"[data] classes: no training image is of class {name!r}")
        if not len(test) or not test.label_matrix[:, column].any():
            data.warnings.append(f"no test image is of class {name!r}: it has no AUC")
    if bad := data.store.bad:
        data.warnings.append(f"{len(bad)} unreadable images were left out")


def some_of(bad: dict[str, str], count: int = 5) -> str:
    """The first reasons why images cannot be read, a line each."""
    shown = "".join(f"\n  {reason}" for reason in list(bad.values())[:count])
    return shown + (f"\n  and {len(bad) - count} more" if len(bad) > count else "")


def _split(pixels: Tensor, table: pd.DataFrame, chosen: np.ndarray, task: Task) -> ImageSplit:
    rows = table[chosen]
    # Many images, few combinations of labels.
    kinds = {found: i for i, found in enumerate(dict.fromkeys(rows["labels"]))}
    vectors = [[name in found for name in task.classes] for found in kinds]
    matrix = np.array(vectors, dtype=np.uint8).reshape(-1, len(task.classes))
    sex = rows["sex"].map({"M": 1.0, "F": 0.0}).to_numpy(dtype=np.float32)
    return ImageSplit(
        images=StoredImages(pixels, torch.from_numpy(np.flatnonzero(chosen))),
        label_matrix=matrix[[kinds[found] for found in rows["labels"]]],
        patients=rows["patient"].to_numpy(dtype=str),
        paths=list(rows["path"]),
        metadata={"age": rows["age"].to_numpy(dtype=np.float32), "sex": sex},
    )


# -- the store -------------------------------------------------------------------------------------


def cache_folder(recipe: Recipe) -> Path:
    """Where image stores are kept: ``[data] cache``, or the user's cache folder."""
    if recipe.tables.data.cache is not None:
        return Path(recipe.tables.data.cache).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xraygan"


def _open_store(recipe: Recipe, dataset: Dataset, table: pd.DataFrame, progress: Progress) -> Store:
    """The store of every row of a table, written now unless it is there."""
    size = recipe.tables.data.image_size
    paths = list(table["path"])
    choice = recipe.choices["data"]
    identity = [STORE_VERSION, choice.part.name, choice.part.version, size]
    contents = [dataset.identity(path) for path in paths]
    key = hashlib.sha256(json.dumps([identity, paths, contents]).encode()).hexdigest()[:32]
    folder = cache_folder(recipe) / key
    seconds = None
    if not _is_whole(folder, len(paths), size):
        try:
            seconds = _write_store(folder, dataset, paths, size, progress)
        except OSError as error:
            raise UserError(
                f"{folder}: the image store cannot be written ({error.strerror}); name another "
                "folder with --set data.cache=DIR"
            ) from error
    about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    if paths:
        # Copy on write: torch wants writable memory, and nothing of ours writes to it.
        pixels = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))
    else:
        pixels = torch.empty((0, size, size), dtype=torch.uint8)
    return Store(folder, pixels, about["sha256"], about["bad"], seconds)


def _is_whole(folder: Path, count: int, size: int) -> bool:
    try:
        json.loads((folder / "store.json").read_text(encoding="utf-8"))
        return np.load(folder / "images.npy", mmap_mode="r").shape == (count, size, size)
    except (OSError, ValueError):
        return False


def _write_store(
    folder: Path, dataset: Dataset, paths: list[str], size: int, progress: Progress
) -> float | None:
    """Decode every image into a new store and move it into place when it is whole.

    Returns:
        How many seconds it took; None if another process was just doing it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.building")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _is_whole(folder, len(paths), size):
            return None
        shutil.rmtree(building, ignore_errors=True)  # what a killed process left
        building.mkdir()
        began = time.monotonic()
        try:
            digest, bad = decode(dataset, paths, size, building / "images.npy", progress)
            about = {"sha256": digest, "count": len(paths), "size": size, "bad": bad}
            (building / "store.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return time.monotonic() - began
