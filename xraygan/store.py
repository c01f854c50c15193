"""A recipe's images, decoded once into a memory-mapped uint8 store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .errors import UserError
from .graph import build
from .interfaces import Dataset, Task
from .recipe import Recipe
from .selection import SPLITS, choose, limit, task_of

#: raised whenever the same file would be decoded to other bytes
STORE_VERSION = 1

#: ``progress(what, total)`` is a context that yields ``advance(count)``
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class ImageSplit:
    """The images of one split, in memory order.

    Attributes:
        images: ``(N, S, S)`` uint8, a view of the memory map.
        label_matrix: ``(N, K)`` uint8, 1 where the image has the class.
        metadata: ``age`` in years (NaN if unknown) and ``sex`` (1 male, 0 female, NaN), ``(N,)``.
    """

    images: Tensor
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
        bad: unreadable images that were left out: path -> reason.
        warnings: what a reader of the results should know of the data.
    """

    task: Task
    splits: dict[str, ImageSplit]
    fingerprint: str
    bad: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Counts of images, patients and classes by split, for ``environment.json``."""
        return {
            "fingerprint": self.fingerprint,
            "images": {name: len(split) for name, split in self.splits.items()},
            "patients": {n: len(np.unique(split.patients)) for n, split in self.splits.items()},
            "classes": {
                name: {
                    label: int(count)
                    for label, count in zip(
                        self.task.classes, split.label_matrix.sum(axis=0), strict=True
                    )
                }
                for name, split in self.splits.items()
            },
            "skipped": self.bad,
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
    pixels, digest, bad = _open_store(recipe, dataset, table, progress)
    if bad and recipe.tables.data.on_bad_image == "stop":
        shown = "".join(f"\n  {reason}" for reason in list(bad.values())[:5])
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(
            f"{len(bad)} of {len(table)} images cannot be read:{shown}{more}\n"
            'Replace them, or leave them out with --set data.on_bad_image="skip"'
        )
    table.loc[table["path"].isin(bad), "split"] = ""
    table["split"] = limit(table, task, recipe)
    splits = {
        name: _split(pixels, table, (table["split"] == name).to_numpy(), task) for name in SPLITS
    }
    splits = {n: split for n, split in splits.items() if len(split) or n in ("train", "test")}
    kept = table.loc[table["split"] != "", ["path", "labels", "patient", "split"]]
    rows = kept.to_json(orient="values")
    fingerprint = hashlib.sha256(f"{digest}{rows}".encode()).hexdigest()
    counts = tuple(splits["train"].label_matrix.sum(axis=0).tolist())
    task = replace(task, counts=counts, images=len(splits["train"]))
    data = ImageData(task, splits, fingerprint, bad)
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
    if data.bad:
        data.warnings.append(f"{len(data.bad)} unreadable images were left out")


def _split(pixels: np.ndarray, table: pd.DataFrame, chosen: np.ndarray, task: Task) -> ImageSplit:
    rows = table[chosen]
    matrix = np.zeros((len(rows), len(task.classes)), dtype=np.uint8)
    column = {name: i for i, name in enumerate(task.classes)}
    for i, found in enumerate(rows["labels"]):
        for name in found:
            if name in column:
                matrix[i, column[name]] = 1
    where = np.flatnonzero(chosen)
    contiguous = len(where) and where[-1] - where[0] + 1 == len(where)
    taken = pixels[where[0] : where[-1] + 1] if contiguous else pixels[where]
    sex = rows["sex"].map({"M": 1.0, "F": 0.0}).to_numpy(dtype=np.float32)
    return ImageSplit(
        images=torch.from_numpy(taken),
        label_matrix=matrix,
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


def _open_store(
    recipe: Recipe, dataset: Dataset, table: pd.DataFrame, progress: Progress
) -> tuple[np.ndarray, str, dict[str, str]]:
    """The pixels of every row, ``(N, S, S)`` uint8, their digest, and what could not be read."""
    size = recipe.tables.data.image_size
    paths = list(table["path"])
    choice = recipe.choices["data"]
    identity = [STORE_VERSION, choice.part.name, choice.part.version, size]
    contents = [[path, dataset.identity(path)] for path in paths]
    key = hashlib.sha256(json.dumps([identity, contents]).encode()).hexdigest()[:32]
    folder = cache_folder(recipe) / key
    if not _is_whole(folder, len(paths), size):
        try:
            _write_store(folder, dataset, paths, size, progress)
        except OSError as error:
            raise UserError(
                f"{folder}: the image store cannot be written ({error.strerror}); name another "
                "folder with --set data.cache=DIR"
            ) from error
    about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    # Copy on write: torch wants writable memory, and nothing of ours writes to it.
    pixels = np.load(folder / "images.npy", mmap_mode="c") if paths else np.empty((0, size, size))
    return pixels.astype(np.uint8, copy=False), about["sha256"], about["bad"]


def _is_whole(folder: Path, count: int, size: int) -> bool:
    try:
        json.loads((folder / "store.json").read_text(encoding="utf-8"))
        return np.load(folder / "images.npy", mmap_mode="r").shape == (count, size, size)
    except (OSError, ValueError):
        return False


def _write_store(
    folder: Path, dataset: Dataset, paths: list[str], size: int, progress: Progress
) -> None:
    """Decode every image into a new store and move it into place when it is whole."""
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        pixels = np.lib.format.open_memmap(
            building / "images.npy", mode="w+", dtype=np.uint8, shape=(len(paths), size, size)
        )
        bad: dict[str, str] = {}

        def decode(row: int) -> None:
            try:
                pixels[row] = dataset.load(paths[row], size)
            except UserError as error:
                bad[paths[row]] = str(error)

        workers = ThreadPoolExecutor(os.cpu_count() or 1)
        with workers, progress("decoding images", len(paths)) as advance:
            for _ in workers.map(decode, range(len(paths))):
                advance(1)
        pixels.flush()
        about = {
            "sha256": hashlib.sha256(pixels.data).hexdigest(),
            "count": len(paths),
            "size": size,
            "bad": {path: bad[path] for path in paths if path in bad},
        }
        (building / "store.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            building.rename(folder)
        except OSError:  # another run has just finished the same store
            if not _is_whole(folder, len(paths), size):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
