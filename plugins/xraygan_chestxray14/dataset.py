"""ChestX-ray14 as the NIH Clinical Center publishes it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from xraygan import Dataset, UserError
from xraygan.plugin_api import (
    NO_FINDING,
    describe_read_error,
    file_identity,
    raise_at_row,
    read_ages,
    read_grey,
    read_lines,
    read_table,
    require_data_folder,
)

# The columns that are read. Releases differ in the other columns, and in the name of the sex.
COLUMNS = {
    "Image Index": "name",
    "Finding Labels": "labels",
    "Patient ID": "patient",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "View Position": "view",
}
ALIASES = {"Patient Sex": "Patient Gender"}
AGAIN = "download it again"
LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
MAX_AGE = 120.0

HELP = """
The folder that data.root names must hold:
  DIR/
    Data_Entry_2017_v2020.csv              (or Data_Entry_2017.csv)
    train_val_list.txt
    test_list.txt
    images_001/images/00000001_000.png     (to images_012; one is enough; or all in images/)
They are in "NIH Chest X-ray Dataset of 14 Common Thorax Disease Categories" of the NIH Clinical
Center: https://nihcc.app.box.com/v/ChestXray-NIHCC
Point the recipe at the folder with:        --set data.root=DIR
Run the same recipe without any download:   --set data.plugin=phantom"""


class ChestXray14(Dataset):
    """NIH ChestX-ray14: 112,120 frontal chest X-rays of 30,805 patients, 14 findings

    Reads the official download: the table ``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv``
    (the later one if both exist), ``train_val_list.txt`` and ``test_list.txt``, and images in
    ``images_001/images`` to ``images_012/images``, or all in ``images``. Part of the download is
    enough: rows without an image file, and images in neither list, are left out. An image has all
    its findings as labels, or the single label "No Finding". The labels were mined from reports;
    the authors estimate that more than 90 % are right. The split is the official one, in which no
    patient is in both lists; the official train and validation images are train. Ages above 120
    years, which are errors in the table, are NaN.

    Source: Wang et al., "ChestX-ray8", CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC
    """

    classes = (
        "No Finding", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule",
        "Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis",
        "Pleural_Thickening", "Hernia",
    )  # fmt: skip
    licence = (
        "free to use, with a link to https://nihcc.app.box.com/v/ChestXray-NIHCC, a citation of "
        "Wang et al. (CVPR 2017) and thanks to the NIH Clinical Center as the provider"
    )

    def __init__(self, root: Path | None) -> None:
        self.root = require_data_folder(root, "chestxray14", HELP)
        try:
            missing = _missing(self.root)
        except OSError as error:
            raise UserError(describe_read_error(error)) from None
        if missing:
            fault = f"not laid out as ChestX-ray14; missing: {', '.join(missing)}"
            raise UserError(f"{root}: {fault}{HELP}")

    def index(self) -> pd.DataFrame:
        try:
            return self._index()
        except OSError as error:
            raise UserError(describe_read_error(error)) from None

    def _index(self) -> pd.DataFrame:
        path = _tables(self.root)[-1]
        table = _read_table(path)
        table["labels"] = _findings(table, path, self.classes)
        table["age"] = read_ages(path, table, "age", "Patient Age")
        table["age"] = table["age"].where(table["age"] <= MAX_AGE)
        table["sex"] = table["sex"].where(table["sex"].isin(["M", "F"]), "")
        names = set(table["name"].to_numpy(dtype=object))
        splits = _read_lists(self.root, path.name, names)
        # Paths come from the folder scan, so that no table can name a file outside the root.
        files = _image_files(self.root)
        table["path"] = table["name"].map(files)
        table["split"] = table["name"].map(splits)
        has_file, listed = table["path"].notna(), table["split"].notna()
        rows = table[has_file & listed]
        if rows.empty:
            raise UserError(
                f"{self.root}: no image of {' or '.join(LISTS)} is here. Both lists exist and name "
                f"{len(splits)} images, but none of them is among the {len(files)} files of "
                f"{', '.join(_image_folders(self.root))}; unpack an archive of images{HELP}"
            )
        left_out = {
            f"rows of {path.name} without an image file": int((~has_file).sum()),
            f"images in neither {' nor '.join(LISTS)}": int((has_file & ~listed).sum()),
            f"image files without a row in {path.name}": len(files.keys() - names),
        }
        self.left_out = {reason: count for reason, count in left_out.items() if count}
        columns = ["path", "labels", "patient", "split", "age", "sex", "view"]
        return rows[columns].reset_index(drop=True)

    def load(self, path: str, size: int) -> np.ndarray:
        return read_grey(self.root / path, size)

    def identity(self, path: str) -> str:
        return file_identity(self.root, path)


# -- files -----------------------------------------------------------------------------------------


def _missing(root: Path) -> list[str]:
    """The missing parts of the official layout."""
    missing = [name for name in LISTS if not (root / name).is_file()]
    if not _tables(root):
        missing.insert(0, "Data_Entry_2017*.csv")
    if not _image_folders(root):
        missing.append("a folder of images")
    return missing


def _tables(root: Path) -> list[Path]:
    """The official tables that exist, the v2020 one last."""
    return sorted(root.glob("Data_Entry_2017*.csv"))


def _image_folders(root: Path) -> list[str]:
    """The existing ones of ``images_NNN/images`` and ``images``, relative to the root."""
    parts = sorted(p.name for p in root.iterdir() if re.fullmatch(r"images_\d{3}", p.name))
    return [f for f in (*(f"{part}/images" for part in parts), "images") if (root / f).is_dir()]


def _image_files(root: Path) -> dict[str, str]:
    """File name -> path relative to the root, by one scan per folder: a stat per file is slow."""
    files: dict[str, str] = {}
    for folder in _image_folders(root):
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.endswith(".png") and entry.is_file():
                    files.setdefault(entry.name, f"{folder}/{entry.name}")
    return files


# -- the table and the lists -----------------------------------------------------------------------


def _read_table(path: Path) -> pd.DataFrame:
    """The table's rows as text, indexed by their line in the file.

    Raises:
        UserError: a row has no image or no patient, or an image has two rows.
    """
    table = read_table(path, list(COLUMNS), aliases=ALIASES, remedy=AGAIN).rename(columns=COLUMNS)
    raise_at_row(path, table, table["name"] == "", "no Image Index")
    raise_at_row(path, table, table["patient"] == "", "no Patient ID; the splits are by patient")
    raise_at_row(path, table, table["name"].duplicated(), "this image has a row above; remove one")
    return table


def _findings(table: pd.DataFrame, path: Path, classes: Collection[str]) -> pd.Series:
    """``"Mass|Nodule"`` to ``("Mass", "Nodule")``."""
    tuples = {text: tuple(dict.fromkeys(text.split("|"))) for text in table["labels"].unique()}
    for text, names in tuples.items():
        for name in names:
            if name not in classes:
                fault = f"unknown finding {name!r}; known: {', '.join(classes)}"
                raise_at_row(path, table, table["labels"] == text, fault)
        if NO_FINDING in names and len(names) > 1:
            fault = f"the labels {text!r} are {NO_FINDING!r} and a finding; remove one of them"
            raise_at_row(path, table, table["labels"] == text, fault)
    return table["labels"].map(tuples)


def _read_lists(root: Path, table_name: str, known: Collection[str]) -> dict[str, str]:
    """Image name -> ``"train"`` or ``"test"``."""
    splits: dict[str, str] = {}
    for file, split in LISTS.items():
        path = root / file
        for number, name in enumerate(read_lines(path, AGAIN), start=1):
            if not name:
                continue
            if name not in known:
                raise UserError(
                    f"{path}, line {number}: {name!r} is not in {table_name}; expected one image "
                    "of that table in each line; use lists and a table of the same release"
                )
            if splits.setdefault(name, split) != split:
                raise UserError(
                    f"{path}, line {number}: {name!r} is in {' and in '.join(LISTS)}; remove "
                    "it from one of them"
                )
    return splits
