"""A folder of images and a CSV table of them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from xraygan import Dataset, UserError
from xraygan.images import file_identity, read_grey
from xraygan.paths import data_folder, path_fault
from xraygan.tables import read_table, stop_at

SPLITS = ("train", "val", "test")
NO_FINDING = "No Finding"

HELP = """
The folder that data.root names must hold a table, images.csv unless data.table names another, and
the images, for example:
  path,label,patient,split
  images/0001.png,Mass|Edema,p17,train
  images/0002.dcm,No Finding,p18,test
Options of [data] name other columns: xraygan describe dataset csv
Run the same recipe without any data of yours:   --set data.plugin=phantom"""

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Csv(Dataset):
    """Your own images, PNG, JPEG, DICOM and others, with one CSV table

    The table has a header and one row an image, in UTF-8. Labels stand in one column, several of
    them with a separator between, or in a column of 0 and 1 for each finding; a row of zeros is
    then "No Finding". Every image needs a label and, unless ``patient`` is empty, a patient: the
    splits keep patients apart. Age, sex and view are unknown.

    A drawn split depends on ``seed`` and on the patient alone: with h a patient's number in [0, 1),
    from the SHA-256 of both, it is test where h < ``test_fraction``, val in the ``val_fraction``
    after that, else train. A table that grows leaves every patient where it was.

    Args:
        table: the table's file, below data.root.
        delimiter: what stands between its columns.
        path: the column of paths, relative to data.root.
        label: the column of labels; empty where each finding has a column.
        separator: what stands between two labels of an image.
        findings: the labels that may occur, in order; empty for those that do, sorted. Where
            ``label`` is empty: the columns of 0 and 1.
        patient: the column of patients; empty to take each image for a patient of its own.
        split: the column of splits, train, val or test; empty to draw them by patient.
        test_fraction: share of the patients that are drawn for test, about.
        val_fraction: share that is drawn for val, which is left aside, about.
        seed: fixes the draw, independently of the run's seed.
    """

    def __init__(
        self,
        root: Path | None,
        *,
        table: Annotated[str, Field(min_length=1)] = "images.csv",
        delimiter: Literal[",", ";", "\t"] = ",",
        path: Annotated[str, Field(min_length=1)] = "path",
        label: str = "label",
        separator: Annotated[str, Field(min_length=1)] = "|",
        findings: tuple[Annotated[str, Field(min_length=1)], ...] = (),
        patient: str = "patient",
        split: str = "split",
        test_fraction: Fraction = 0.2,
        val_fraction: Fraction = 0.0,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.root = data_folder(root, "csv", HELP)
        if fault := path_fault(table):
            raise UserError(f"[data] table: {table!r} {fault}")
        _check(label, findings, test_fraction, val_fraction)
        self.file = self.root / table
        if not self.file.exists():
            raise UserError(f"{self.file}: there is no such table{HELP}")
        labels = (label,) if label else findings
        columns = [path, *labels, *(name for name in (patient, split) if name)]
        rows = read_table(self.file, list(dict.fromkeys(columns)), delimiter=delimiter)
        rows = rows.map(str.strip)
        if rows.empty:
            raise UserError(f"{self.file}: no row below the header; expected one an image")
        paths = self._paths(rows, path)
        found = (
            self._named(rows, label, separator, findings) if label else self._marked(rows, labels)
        )
        self.classes = tuple(
            dict.fromkeys((*findings, *sorted({n for each in found for n in each})))
        )
        patients = self._patients(rows, patient) if patient else paths
        if split:
            splits = self._splits(rows, split)
        else:
            splits = patients.map(lambda who: _draw(f"{seed}/{who}", test_fraction, val_fraction))
        self._table = pd.DataFrame(
            {"path": paths, "labels": found, "patient": patients, "split": splits}
        ).assign(age=math.nan, sex="", view="")

    def index(self) -> pd.DataFrame:
        return self._table.reset_index(drop=True)

    def load(self, path: str, size: int) -> np.ndarray:
        return read_grey(self.root / path, size)

    def identity(self, path: str) -> str:
        return file_identity(self.root, path)

    # -- columns -----------------------------------------------------------------------------------

    def _paths(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Paths with ``/``, each written in one way only."""
        faults = rows[column].map(path_fault)
        stop_at(self.file, rows, faults != "", f"the {column} {next(filter(None, faults), '')}")
        paths = rows[column].map(lambda text: str(PurePosixPath(text.replace("\\", "/"))))
        stop_at(self.file, rows, paths.duplicated(), "this image has a row above; remove one")
        return paths

    def _named(
        self, rows: pd.DataFrame, column: str, separator: str, findings: tuple[str, ...]
    ) -> pd.Series:
        """``"Mass|Edema"`` to ``("Mass", "Edema")``."""
        tuples = {}
        for text in rows[column].unique():
            names = tuple(dict.fromkeys(name.strip() for name in text.split(separator)))
            unknown = [name for name in names if findings and name not in findings]
            fault = ""
            if "" in names:
                fault = f"an empty {column}; write {NO_FINDING!r} where nothing was found"
            elif unknown:
                known = ", ".join(findings)
                fault = f"unknown finding {unknown[0]!r}; data.findings are {known}"
            stop_at(self.file, rows, (rows[column] == text) & bool(fault), fault)
            tuples[text] = names
        return rows[column].map(tuples)

    def _marked(self, rows: pd.DataFrame, columns: tuple[str, ...]) -> pd.Series:
        """The names of the columns that hold a 1."""
        for name in columns:
            wrong = ~rows[name].isin(["0", "1", "0.0", "1.0"])
            stop_at(self.file, rows, wrong, f"the column {name!r} holds neither 0 nor 1")
        marks = rows[list(columns)].isin(["1", "1.0"]).to_numpy()
        if NO_FINDING in columns:
            none = pd.Series(~marks.any(axis=1), index=rows.index)
            stop_at(self.file, rows, none, f"every finding is 0, {NO_FINDING!r} too")
        kinds = {
            mark: tuple(name for name, marked in zip(columns, mark, strict=True) if marked)
            for mark in set(map(tuple, marks.tolist()))
        }
        found = [kinds[tuple(mark)] or (NO_FINDING,) for mark in marks.tolist()]
        return pd.Series(found, index=rows.index)

    def _patients(self, rows: pd.DataFrame, column: str) -> pd.Series:
        what = f'no {column}; name one, or set data.patient = "" if none has two images'
        stop_at(self.file, rows, rows[column] == "", what)
        return rows[column]

    def _splits(self, rows: pd.DataFrame, column: str) -> pd.Series:
        what = f'the {column} is none of {", ".join(SPLITS)}; data.split = "" draws them'
        stop_at(self.file, rows, ~rows[column].isin(SPLITS), what)
        return rows[column]


def _check(label: str, findings: tuple[str, ...], test: float, val: float) -> None:
    """Options that are well by themselves and do not fit each other."""
    if len({*findings}) < len(findings):
        raise UserError("[data] findings: a finding is named twice")
    if not label and not findings:
        raise UserError(
            "[data] findings: name the columns of 0 and 1, one for each finding, or name the "
            "column of labels with data.label"
        )
    if test + val >= 1:
        raise UserError(
            f"[data] test_fraction and val_fraction: {test} and {val} leave nothing to train on; "
            "expected less than 1 together"
        )


def _draw(name: str, test: float, val: float) -> str:
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return "test" if share < test else "val" if share < test + val else "train"
