"""The Zhang Lab's paediatric chest X-rays as Mendeley Data publishes them."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from xraygan import Dataset, UserError
from xraygan.images import file_identity, read_grey
from xraygan.paths import data_folder
from xraygan.reading import unreadable

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

    Reads the official layout ``chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``; the root is
    the folder that holds ``chest_xray`` or ``chest_xray`` itself, and ``val`` may be absent. All
    are anterior-posterior radiographs of children of one to five years; the age and sex of each
    are not published.

    The patient is what the file name says: ``person1000_bacteria`` of
    ``person1000_bacteria_2931.jpeg``, ``IM-0115`` of ``IM-0115-0001.jpeg``; any other file is a
    patient of its own. The number alone is no patient, because bacterial and viral cases are
    counted separately: of the 202 person numbers in test/, 170 stand in train/ too, always with the
    other cause. The pictures agree: within train/, 16 x 16 thumbnails of one number and one cause
    correlate by 0.80 on average, of one number and two causes by 0.74, of two numbers by 0.75; and
    no test image has its number on its nearest training neighbour. With the cause, no patient of
    test/ is in train/.

    Source: Kermany et al., "Identifying Medical Diagnoses and Treatable Diseases by Image-Based
    Deep Learning", Cell 172 (2018); https://data.mendeley.com/datasets/rscbjbr9sj/2
    """

    classes = ("NORMAL", "PNEUMONIA")
    exclusive = True
    licence = (
        "CC BY 4.0, Kermany, Zhang and Goldbaum, Mendeley Data v2, "
        "https://data.mendeley.com/datasets/rscbjbr9sj/2"
    )

    def __init__(self, root: Path | None) -> None:
        self.root = data_folder(root, "zhang", HELP)
        try:
            prefix = _prefix(self.root)
            needed = [f"{prefix}{split}/{c}" for split in ("train", "test") for c in self.classes]
            missing = [folder for folder in needed if not (self.root / folder).is_dir()]
        except OSError as error:
            raise UserError(unreadable(error)) from None
        if missing:
            what = f"not laid out as the set; missing: {', '.join(missing)}"
            raise UserError(f"{root}: {what}{HELP}")

    def index(self) -> pd.DataFrame:
        prefix = _prefix(self.root)
        rows = []
        for split in SPLITS:
            for name in self.classes:
                folder = f"{prefix}{split}/{name}"
                try:
                    files = _image_names(self.root / folder)
                except OSError as error:
                    raise UserError(unreadable(error)) from None
                if not files and split != "val":
                    raise UserError(f"{self.root / folder}: no .jpeg file is in it{HELP}")
                rows += [(f"{folder}/{file}", (name,), split) for file in files]
        table = pd.DataFrame(rows, columns=["path", "labels", "split"])
        return table.assign(patient=table["path"].map(_patient), age=math.nan, sex="", view="AP")

    def load(self, path: str, size: int) -> np.ndarray:
        return read_grey(self.root / path, size)

    def identity(self, path: str) -> str:
        return file_identity(self.root, path)


def _prefix(root: Path) -> str:
    """Where the splits are below the root: ``""`` or ``"chest_xray/"``."""
    return "" if any((root / split).is_dir() for split in SPLITS) else "chest_xray/"


def _image_names(folder: Path) -> list[str]:
    """The radiographs in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        # macOS leaves ._NAME.jpeg beside NAME.jpeg: no picture.
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(".jpeg")
            and not entry.name.startswith(".")
            and entry.is_file()
        )


def _patient(path: str) -> str:
    match = PATIENT.match(path.rpartition("/")[2])
    return match[0] if match else path
