"""The Zhang Lab's paediatric chest X-rays as Mendeley Data publishes them."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from xraygan import Dataset, UserError
from xraygan.plugin_api import describe_read_error, file_identity, read_grey, require_data_folder

SPLITS = ("train", "val", "test")
PATIENT = re.compile(r"person\d+_(?:bacteria|virus)|(?:NORMAL2-)?IM-\d+")

HELP = """
The folder that data.root names must hold:
  DIR/
    chest_xray/
      train/NORMAL/*.jpeg      train/PNEUMONIA/*.jpeg
      test/NORMAL/*.jpeg       test/PNEUMONIA/*.jpeg     (and val/ likewise, where there is one)
It is ChestXRay2017.zip of Kermany, Zhang and Goldbaum, Mendeley Data v2:
https://data.mendeley.com/datasets/rscbjbr9sj/2
Point the recipe at the folder with:        --set data.root=DIR
Run the same recipe without any download:   --set data.plugin=phantom \
--set 'data.classes=["No Finding","Pneumonia"]'"""


class Zhang(Dataset):
    """Zhang Lab paediatric chest X-rays: 5,856 images, normal or pneumonia

    Reads the official layout ``chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``. The root is
    ``chest_xray`` or the folder that contains it, and ``val`` may be absent. All images are
    anterior-posterior radiographs of children of one to five years; the age and sex of each child
    are not published. A folder of another class in a split is refused. Files other than .jpeg are
    counted and left out.

    The official ``val`` has 16 images, too few to choose a checkpoint by. They are the validation
    images unless ``val = "train"`` adds them to the training images; ``data.validation`` then sets
    aside a share of the training patients, as it does if there is no ``val``.

    The patient is read from the file name: ``person1000_bacteria`` of
    ``person1000_bacteria_2931.jpeg``, ``IM-0115`` of ``IM-0115-0001.jpeg``. Each other file is a
    patient of its own. The number alone does not identify a patient, because bacterial and viral
    cases are numbered separately: of the 202 person numbers in test/, 170 are also in train/,
    always with the other cause. The images confirm this. Within train/, 16 x 16 thumbnails with the
    same number and cause correlate by 0.80 on average, with the same number and different causes by
    0.74, with different numbers by 0.75; and no test image has the same number as its nearest
    training image. With the cause, no patient of test/ is in train/.

    For NORMAL images, whose names have no ``person``, the IM number is the best guess of the
    patient. No publication confirms it, and every run notes this.

    Args:
        val: use of the images in ``val``: "val" for validation images, "train" for more training
            images.

    Source: Kermany et al., "Identifying Medical Diagnoses and Treatable Diseases by Image-Based
    Deep Learning", Cell 172 (2018); https://data.mendeley.com/datasets/rscbjbr9sj/2
    """

    classes = ("NORMAL", "PNEUMONIA")
    exclusive = True
    licence = (
        "CC BY 4.0, Kermany, Zhang and Goldbaum, Mendeley Data v2, "
        "https://data.mendeley.com/datasets/rscbjbr9sj/2"
    )

    def __init__(self, root: Path | None, *, val: Literal["val", "train"] = "val") -> None:
        self.val = val
        self.root = require_data_folder(root, "zhang", HELP)
        try:
            prefix = _prefix(self.root)
            needed = [f"{prefix}{split}/{c}" for split in ("train", "test") for c in self.classes]
            missing = [folder for folder in needed if not (self.root / folder).is_dir()]
            others = [] if missing else self._other_folders()
        except OSError as error:
            raise UserError(describe_read_error(error)) from None
        if missing:
            fault = f"not laid out as the data set; missing: {', '.join(missing)}"
            raise UserError(f"{root}: {fault}{HELP}")
        if others:
            raise UserError(
                f"{self.root / others[0]}: a folder of another class; expected only "
                f"{' and '.join(self.classes)}. Move it out of the folder, or use all classes with "
                'a table of the images and data.plugin = "csv"'
            )

    def _other_folders(self) -> list[str]:
        """The folders in the splits that are of no class, without hidden folders."""
        prefix = _prefix(self.root)
        return [
            f"{prefix}{split}/{entry.name}"
            for split in SPLITS
            for entry in _entries(self.root / f"{prefix}{split}")
            if entry.is_dir() and entry.name not in self.classes
        ]

    def index(self) -> pd.DataFrame:
        prefix = _prefix(self.root)
        rows, others = [], 0
        for split in SPLITS:
            used_as = self.val if split == "val" else split
            try:
                others += sum(not e.is_dir() for e in _entries(self.root / f"{prefix}{split}"))
                for name in self.classes:
                    folder = f"{prefix}{split}/{name}"
                    files = _entries(self.root / folder)
                    images = [file.name for file in files if _is_image(file)]
                    others += len(files) - len(images)
                    if not images and split != "val":
                        raise UserError(f"{self.root / folder}: the folder has no .jpeg file{HELP}")
                    rows += [(f"{folder}/{image}", (name,), used_as) for image in images]
            except OSError as error:
                raise UserError(describe_read_error(error)) from None
        self.left_out = {"files in the image folders that are no .jpeg": others} if others else {}
        table = pd.DataFrame(rows, columns=["path", "labels", "split"])
        table = table.assign(patient=table["path"].map(_patient), age=math.nan, sex="", view="AP")
        self.notes = _notes(table)
        return table

    def load(self, path: str, size: int) -> np.ndarray:
        return read_grey(self.root / path, size)

    def identity(self, path: str) -> str:
        return file_identity(self.root, path)


def _prefix(root: Path) -> str:
    """The folder of the splits, relative to the root: ``""`` or ``"chest_xray/"``."""
    return "" if any((root / split).is_dir() for split in SPLITS) else "chest_xray/"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name; empty if it does not exist.

    Without hidden entries, because macOS writes files ._NAME.jpeg that are not images.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(".jpeg") and entry.is_file()


def _notes(table: pd.DataFrame) -> tuple[str, ...]:
    """Notes on the patients that are not known."""
    unnamed = int((table["patient"] == table["path"]).sum())
    normal = int(table["labels"].map(("NORMAL",).__eq__).sum())
    notes = [
        f"the patients of the {normal:,} NORMAL images are not published: the IM number of the "
        "file name is used as the patient, so it cannot be checked that no such patient has images "
        "in two splits"
    ]
    if unnamed:
        notes.append(
            f"{unnamed:,} file names give no patient, as person1_virus_7.jpeg does: each of these "
            "images counts as a patient of its own"
        )
    return tuple(notes)


def _patient(path: str) -> str:
    match = PATIENT.match(path.rpartition("/")[2])
    return match[0] if match else path
