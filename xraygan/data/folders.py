"""Folders of images without any recipe's data: listed, decoded once, with patients of a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xraygan.errors import UserError
from xraygan.parts.building import build
from xraygan.parts.interfaces import Dataset
from xraygan.recipe.loading import Recipe
from xraygan.utils.parsing import describe_read_error

from .decode import Progress
from .dicom import HEAD, is_dicom
from .image_cache import open_store
from .image_splits import ImageSplit, build_split
from .image_store import unreadable_images
from .images import read_grey
from .index import read_index

#: endings of the names of image files, beside those of DICOM; DICOM is known by its content too
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm",
    ".pnm", ".jp2", ".j2k",
)  # fmt: skip


class ImageFolder(Dataset):
    """The image files of one folder."""

    classes = ()

    def __init__(self, root: Path, paths: Sequence[str] = ()) -> None:
        self.root = root
        self.paths = list(paths)

    def index(self) -> pd.DataFrame:
        return pd.DataFrame({"path": self.paths})

    def load(self, path: str, size: int) -> np.ndarray:
        return read_grey(self.root / path, size)


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder.

    Attributes:
        folder: as it was named.
        split: its images, in the order of their paths.
        sha256: a digest of all pixels of the folder.
        contents: the identity of each image.
        left_out: images and files that are not used: reason -> how many.
        warnings: sentences that a reader of the figures should know of the images.
    """

    folder: Path
    split: ImageSplit
    sha256: str
    contents: Sequence[str]
    left_out: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class PatientTable:
    """Labels and patients of image files, from a table as the dataset ``csv`` reads it.

    Its paths are relative to its own folder, which holds the folders of the images.

    Args:
        recipe: its ``[data]`` is the dataset ``csv`` with the table's file name and columns.
        file: the table.

    Raises:
        UserError: the table cannot be read, or has a fault.
    """

    def __init__(self, recipe: Recipe, file: Path) -> None:
        if not file.is_file():
            fault = "this is a folder" if file.exists() else "this table does not exist"
            raise UserError(
                f"--table {file}: {fault}; name a CSV table of the images, with their labels"
            )
        self.file = file
        self.root = file.parent.resolve()
        dataset = build(recipe.choices["data"], self.root)
        self.classes: tuple[str, ...] = tuple(dataset.classes)
        self.notes: list[str] = list(dataset.notes)
        self._rows = read_index(recipe.choices["data"], dataset).set_index("path", drop=False)

    def rows(self, folder: Path, paths: Sequence[str]) -> pd.DataFrame:
        """The table's rows of some files of a folder, in their order.

        Raises:
            UserError: the folder is not below the table's, or a file has no row.
        """
        place = folder.resolve()
        if not place.is_relative_to(self.root):
            raise UserError(
                f"{self.file}: {folder} is not below the table's folder, and the paths of a table "
                "are relative to its own folder; put the table into the folder that holds both "
                "folders of images, with paths from there"
            )
        prefix = place.relative_to(self.root).as_posix()
        names = [path if prefix == "." else f"{prefix}/{path}" for path in paths]
        if missing := [name for name in names if name not in self._rows.index]:
            raise UserError(
                f"{self.file}: no row for {len(missing)} of the {len(names)} images of {folder}, "
                f"{missing[0]!r} the first; add their rows, or move these files elsewhere"
            )
        return self._rows.loc[names].assign(path=list(paths)).reset_index(drop=True)


def require_folder(folder: Path, option: str) -> None:
    """Check that what an option names is a folder.

    Raises:
        UserError: it is not.
    """
    if not folder.is_dir():
        fault = "this is a file; name a folder" if folder.exists() else "there is no such folder"
        raise UserError(f"{option} {folder}: {fault} of images")


def list_images(folder: Path, option: str) -> tuple[list[str], dict[str, int]]:
    """The image files below a folder, by their paths, and the files of other kinds: how many.

    A file is an image if its name ends as one of :data:`SUFFIXES`, or if it is DICOM. Hidden files
    and folders are not listed.

    Args:
        option: what named the folder, for messages.

    Raises:
        UserError: there is no such folder, it cannot be read, or it holds no image.
    """
    require_folder(folder, option)
    images: list[str] = []
    others: list[str] = []

    def refuse(error: OSError) -> None:
        raise UserError(f"{option} {describe_read_error(error)}") from error

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(place, name)
            if not name.startswith("."):
                kind = images if _is_image(path) else others
                kind.append(path.relative_to(folder).as_posix())
    if not images:
        state = f"holds {len(others)} files, and none is an image" if others else "is empty"
        raise UserError(f"{option} {folder}: the folder {state}; name a folder of PNG, JPEG or "
                        "DICOM files")  # fmt: skip
    kinds = {f"files that are no images, such as {min(others)}": len(others)} if others else {}
    return sorted(images), kinds


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return path.is_symlink()  # one that leads nowhere is reported when it is read
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD), path.suffix)
    except OSError:
        return False


def read_folder(
    recipe: Recipe,
    folder: Path,
    option: str,
    progress: Progress,
    table: PatientTable | None = None,
) -> FolderImages:
    """Decode the images of a folder, unless a store has them.

    Args:
        recipe: its ``[data]`` says how images are read: ``image_size``, ``grey``, ``cache`` and
            ``on_bad_image``.
        option: what named the folder, for messages.
        table: labels and patients; without it each file is its own patient and has no label.

    Raises:
        UserError: see :func:`list_images`; or an image cannot be read, or has no row in the table.
    """
    paths, left_out = list_images(folder, option)
    rows = _unknown(paths) if table is None else table.rows(folder, paths)
    store = open_store(with_root(recipe, folder), ImageFolder(folder, paths), paths, progress)
    if store.bad and recipe.tables.data.on_bad_image == "stop":
        error = unreadable_images(store.bad, len(paths))
        raise UserError(f"{option} {folder}: {error}")
    readable = np.flatnonzero([path not in store.bad for path in paths])
    if not len(readable):
        raise UserError(f"{option} {folder}: none of the {len(paths)} images can be read")
    if store.bad:
        left_out |= {"images that cannot be read": len(store.bad)}
    classes = () if table is None else table.classes
    split = build_split(store.pixels, rows, np.ones(len(rows), dtype=bool), classes)
    return FolderImages(
        folder,
        split.take(readable),
        store.sha256,
        [store.contents[int(row)] for row in readable],
        left_out,
        [doubtful.describe(len(paths), 3) for doubtful in store.doubtful],
    )


def _unknown(paths: Sequence[str]) -> pd.DataFrame:
    """The rows of images of which nothing is known: each is its own patient."""
    rows = pd.DataFrame({"path": list(paths), "patient": list(paths)}, dtype=object)
    return rows.assign(labels=[()] * len(rows), age=np.nan, sex="", view="")


def with_root(recipe: Recipe, folder: Path, **changes: Any) -> Recipe:
    """The recipe with a folder as its ``data.root``.

    Args:
        changes: of other keys of ``[data]``.
    """
    data = recipe.tables.data.model_copy(update={"root": str(folder), **changes})
    tables = recipe.tables.model_copy(update={"data": data})
    return Recipe(recipe.source, tables, recipe.choices)


def check_apart(folders: Mapping[str, Path]) -> None:
    """Check that no folder is, or lies in, another one.

    Args:
        folders: by what named them.

    Raises:
        UserError: two of them hold the same files.
    """
    places = {option: folder.resolve() for option, folder in folders.items()}
    for option, place in places.items():
        for other, second in places.items():
            if option != other and place.is_relative_to(second):
                relation = "is the folder of" if place == second else "lies in the folder of"
                raise UserError(
                    f"{option} {folders[option]}: it {relation} {other}, so the same images would "
                    "be compared with themselves; name folders that hold different images"
                )
