"""A folder of images with a CSV table that describes them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from xraygan import Dataset, UserError
from xraygan.plugin_api import (
    NO_FINDING,
    file_identity,
    normalized_name,
    path_fault,
    raise_at_row,
    read_ages,
    read_grey,
    read_table,
    require_data_folder,
)

SPLITS = ("train", "val", "test")
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "": ""}
VIEWS = {"pa": "PA", "ap": "AP", "lateral": "LATERAL", "": ""}
MAX_AGE = 120
SEPARATORS = re.compile(r"[|;,/+&\t]")
NO_VALUE = ("nan", "<na>", "null")  # written by programs for an empty field
LIST_SYNTAX = re.compile(r"^[\[\s'\"]+|[\]\s'\"]+$")

NO_PATIENTS = (
    "no patients are known (data.patient is empty): each image counts as a patient of its own, so "
    "it cannot be checked that no patient has images in two splits; if one has, the figures are "
    "too good and their intervals too narrow. data.patient_pattern takes patients from the paths"
)

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
    """Your own images (PNG, JPEG, DICOM and others) with one CSV table

    The table is UTF-8 with a header and one row for each image. The labels are in one column,
    several of an image joined by a separator, or in a column of 0 and 1 for each finding; a row of
    zeros is then "No Finding". Every image needs a label and, unless ``patient`` is empty, a
    patient, because no patient may be in two splits. Age, sex and view are unknown unless their
    columns are named.

    A drawn split depends only on ``seed`` and on the patient. The SHA-256 of both gives a number h
    in [0, 1): the patient is in test if h < ``test_fraction``, in val if h is in the
    ``val_fraction`` after that, and otherwise in train. If the table grows, every patient keeps its
    split.

    Args:
        table: the table's file, relative to data.root.
        delimiter: the character between columns.
        path: the column of paths, relative to data.root.
        label: the column of labels; empty if each finding has a column.
        separator: the text between two labels of an image.
        findings: the possible labels, in order; empty for all labels of the table, sorted. If
            ``label`` is empty: the columns of 0 and 1.
        patient: the column of patients; empty if there is none.
        patient_pattern: a regular expression with one group that finds the patient in a path, such
            as "(p[0-9]+)_", if there is no column of patients; empty to count each image as a
            patient of its own, so that the splits cannot be checked.
        age: the column of ages, in years (58) or as in DICOM (058Y, 018M); empty if unknown.
        sex: the column of sexes: M or male, F or female; empty if unknown.
        view: the column of views: PA, AP or lateral; empty if unknown.
        split: the column of splits: train, val or test; empty to draw the splits by patient.
        test_fraction: approximate share of the patients in test, if splits are drawn.
        val_fraction: approximate share of the patients in val, the validation images.
        seed: seed of the drawn splits, independent of the run's seed.
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
        patient_pattern: str = "",
        age: str = "",
        sex: str = "",
        view: str = "",
        split: str = "split",
        test_fraction: Fraction = 0.2,
        val_fraction: Fraction = 0.0,
        seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    ) -> None:
        self.root = require_data_folder(root, "csv", HELP)
        if fault := path_fault(table):
            raise UserError(f"[data] table: {table!r} {fault}")
        _check_combinations(label, findings, test_fraction, val_fraction)
        pattern = _compile_pattern(patient, patient_pattern)
        self.file = self.root / table
        if not self.file.exists():
            raise UserError(f"{self.file}: this table does not exist{HELP}")
        labels = (label,) if label else findings
        columns = [path, *labels, *filter(None, (patient, split, age, sex, view))]
        rows = read_table(self.file, list(dict.fromkeys(columns)), delimiter=delimiter)
        rows = rows.map(str.strip)
        if rows.empty:
            raise UserError(
                f"{self.file}: no row below the header; expected one row for each image"
            )
        paths = self._paths(rows, path)
        image_labels = (
            self._split_labels(rows, label, separator, findings)
            if label
            else self._labels_of_columns(rows, labels)
        )
        occurring = sorted({name for names in image_labels for name in names})
        self.classes = tuple(dict.fromkeys((*findings, *occurring)))
        patients = self._patients(rows, patient, pattern, paths)
        shares = (test_fraction, val_fraction)
        splits = self._splits(rows, split) if split else _draw_splits(patients, seed, *shares)
        self._table = pd.DataFrame(
            {"path": paths, "labels": image_labels, "patient": patients, "split": splits}
        ).assign(**self._metadata(rows, age, sex, view))

    def index(self) -> pd.DataFrame:
        return self._table.reset_index(drop=True)

    def load(self, path: str, size: int) -> np.ndarray:
        return read_grey(self.root / path, size)

    def identity(self, path: str) -> str:
        return file_identity(self.root, path)

    # -- columns -----------------------------------------------------------------------------------

    def _paths(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Normalized paths with ``/``; a path that occurs twice is refused."""
        faults = rows[column].map(path_fault)
        raise_at_row(
            self.file, rows, faults != "", f"the {column} {next(filter(None, faults), '')}"
        )
        paths = rows[column].map(lambda text: str(PurePosixPath(text.replace("\\", "/"))))
        raise_at_row(self.file, rows, paths.duplicated(), "this image has a row above; remove one")
        return paths

    def _split_labels(
        self, rows: pd.DataFrame, column: str, separator: str, findings: tuple[str, ...]
    ) -> pd.Series:
        """``"Mass|Edema"`` to ``("Mass", "Edema")``."""
        tuples: dict[str, tuple[str, ...]] = {}
        # normalized name -> its first spelling, and the line of that
        spelt = {normalized_name(NO_FINDING): (NO_FINDING, "")}
        for line, text in rows[column].drop_duplicates().items():
            names = tuple(dict.fromkeys(name.strip() for name in text.split(separator)))
            fault = _fault(names, column, findings)
            for name in names if not fault else ():
                first, line_of = spelt.setdefault(normalized_name(name), (name, f" in line {line}"))
                if first != name:
                    fault = f"the {column} {name!r} is spelt {first!r}{line_of or ' elsewhere'}; "
                    fault += "a class has one spelling: write the same in all rows"
            raise_at_row(self.file, rows, (rows[column] == text) & bool(fault), fault)
            tuples[text] = names
        if not findings:
            self._check_separator(rows, column, separator, tuples)
        return rows[column].map(tuples)

    def _check_separator(
        self, rows: pd.DataFrame, column: str, separator: str, tuples: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Refuse ``"Effusion;Mass"`` as one label if ``"Effusion"`` is a label too."""
        known = {normalized_name(name) for names in tuples.values() for name in names}
        for text, names in tuples.items():
            for name in names:
                parts = [part.strip() for part in SEPARATORS.split(name)]
                if len(parts) > 1 and any(normalized_name(part) in known for part in parts):
                    fault = f"the {column} {name!r} joins labels with another separator than "
                    fault += f"{separator!r}; write {separator!r}, or set data.separator; if this "
                    fault += "is one label, list all labels in data.findings"
                    raise_at_row(self.file, rows, rows[column] == text, fault)

    def _labels_of_columns(self, rows: pd.DataFrame, columns: tuple[str, ...]) -> pd.Series:
        """The names of the columns that contain a 1; "No Finding" if there are none."""
        for name in columns:
            wrong = ~rows[name].isin(["0", "1", "0.0", "1.0"])
            raise_at_row(self.file, rows, wrong, f"the column {name!r} is neither 0 nor 1")
        marks = rows[list(columns)].isin(["1", "1.0"]).to_numpy()
        if NO_FINDING in columns:
            none = pd.Series(~marks.any(axis=1), index=rows.index)
            raise_at_row(self.file, rows, none, f"every finding is 0, {NO_FINDING!r} too")
            both = (rows[NO_FINDING].isin(["1", "1.0"])) & (marks.sum(axis=1) > 1)
            raise_at_row(
                self.file, rows, both, f"{NO_FINDING!r} and a finding are 1; correct one of them"
            )
        names_of = {
            mark: tuple(name for name, marked in zip(columns, mark, strict=True) if marked)
            for mark in set(map(tuple, marks.tolist()))
        }
        image_labels = [names_of[tuple(mark)] or (NO_FINDING,) for mark in marks.tolist()]
        return pd.Series(image_labels, index=rows.index)

    def _patients(
        self, rows: pd.DataFrame, column: str, pattern: re.Pattern[str] | None, paths: pd.Series
    ) -> pd.Series:
        """The patients from a column, or by a pattern from the paths, or one for each image."""
        if column:
            fault = f'no {column}; fill it in, or set data.patient = "" if the table has none'
            raise_at_row(self.file, rows, rows[column] == "", fault)
            none = rows[column].str.lower().isin([*NO_VALUE, "none"])
            fault = f"the {column} is a word for an unknown value, so many images would be of one "
            fault += 'patient; fill in the patient, or set data.patient = ""'
            raise_at_row(self.file, rows, none, fault)
            return rows[column]
        if pattern is None:
            self.notes = (NO_PATIENTS,)
            return paths
        matches = {path: pattern.search(path) for path in paths}
        patients = paths.map({path: (match and match[1]) or "" for path, match in matches.items()})
        fault = f"data.patient_pattern {pattern.pattern!r} finds no patient in this path"
        raise_at_row(self.file, rows, patients == "", fault)
        return patients

    def _metadata(self, rows: pd.DataFrame, age: str, sex: str, view: str) -> dict[str, Any]:
        """Age, sex and view; unknown if their column is not named."""
        return {
            "age": self._ages(rows, age) if age else math.nan,
            "sex": self._codes(rows, sex, SEXES, "M, F, male or female") if sex else "",
            "view": self._codes(rows, view, VIEWS, "PA, AP or lateral") if view else "",
        }

    def _ages(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Ages in years, NaN if unknown."""
        ages = read_ages(self.file, rows, column, column)
        fault = f"the {column} is above {MAX_AGE} years; leave it empty if it is unknown"
        raise_at_row(self.file, rows, ages > MAX_AGE, fault)
        return ages

    def _codes(
        self, rows: pd.DataFrame, column: str, known: Mapping[str, str], expected: str
    ) -> pd.Series:
        """A column whose values are keys of ``known``, in any case, as the index writes them."""
        lower = rows[column].str.casefold()
        wrong = ~lower.isin(list(known))
        if wrong.any():
            fault = f"the {column} is {rows.at[wrong.idxmax(), column]!r}; expected {expected}, or "
            raise_at_row(self.file, rows, wrong, f"{fault}nothing if it is unknown")
        return lower.map(known)

    def _splits(self, rows: pd.DataFrame, column: str) -> pd.Series:
        fault = f'the {column} is none of {", ".join(SPLITS)}; data.split = "" draws the splits'
        raise_at_row(self.file, rows, ~rows[column].isin(SPLITS), fault)
        return rows[column]


def _check_combinations(label: str, findings: tuple[str, ...], test: float, val: float) -> None:
    """Refuse combinations of options that do not fit each other.

    Raises:
        UserError: two findings have the same name, "No Finding" has another spelling, there is no
            column of labels, or no patient would be left for training.
    """
    if len({*map(normalized_name, findings)}) < len(findings):
        raise UserError("[data] findings: a finding is named twice, perhaps in two spellings")
    for name in findings:
        if normalized_name(name) == normalized_name(NO_FINDING) and name != NO_FINDING:
            raise UserError(
                f"[data] findings: {name!r} is spelt {NO_FINDING!r}; use that spelling here and in "
                "the table"
            )
    if not label and not findings:
        raise UserError(
            "[data] findings: name the columns of 0 and 1, one for each finding, or name the "
            "column of labels with data.label"
        )
    if test + val >= 1:
        raise UserError(
            f"[data] test_fraction and val_fraction: {test} and {val} leave no training images; "
            "expected a sum below 1"
        )


def _compile_pattern(patient: str, pattern: str) -> re.Pattern[str] | None:
    """The compiled ``data.patient_pattern``; None if it is empty.

    Raises:
        UserError: there is a column of patients too, or it is not an expression with one group.
    """
    if not pattern:
        return None
    if patient:
        raise UserError(
            f"[data] patient_pattern: the column {patient!r} already gives the patients; set "
            'data.patient = "" to take them from the paths'
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"[data] patient_pattern: {pattern!r} is not a regular expression ({error})"
        ) from None
    if compiled.groups != 1:
        raise UserError(
            f"[data] patient_pattern: {pattern!r} has {compiled.groups} groups; expected one, in "
            'parentheses, around the patient, such as "(p[0-9]+)_"'
        )
    return compiled


def _fault(names: tuple[str, ...], column: str, findings: tuple[str, ...]) -> str:
    """The fault of an image's labels; empty if there is none."""
    if "" in names:
        return f"an empty {column}; write {NO_FINDING!r} if nothing was found"
    for name in names:
        if name.lower() in NO_VALUE:
            return (
                f"the {column} is {name!r}, which is no label; write {NO_FINDING!r} if nothing "
                "was found"
            )
        if LIST_SYNTAX.search(name):
            plain = LIST_SYNTAX.sub("", name) or NO_FINDING
            return (
                f"the {column} {name!r} has the brackets or quotes of a list; write {plain!r}, and "
                "data.separator between several"
            )
        if findings and name not in findings:
            return f"unknown finding {name!r}; data.findings are {', '.join(findings)}"
    if NO_FINDING in names and len(names) > 1:
        finding = next(name for name in names if name != NO_FINDING)
        return f"one image has {NO_FINDING!r} and {finding!r}; remove one of them"
    return ""


def _draw_splits(patients: pd.Series, seed: int, test: float, val: float) -> pd.Series:
    """The split of each image, which depends only on its patient and the seed."""

    def split(patient: str) -> str:
        digest = hashlib.sha256(f"{seed}/{patient}".encode()).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        return "test" if share < test else "val" if share < test + val else "train"

    return patients.map(split)
