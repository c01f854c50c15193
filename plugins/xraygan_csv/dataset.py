"""A folder of images and a CSV table of them."""

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
NO_VALUE = ("nan", "<na>", "null")  # what programs write for an empty field
LIST_SYNTAX = re.compile(r"^[\[\s'\"]+|[\]\s'\"]+$")

NO_PATIENTS = (
    "no patients are known (data.patient is empty): each image is taken for a patient of its own, "
    "so it cannot be checked that no patient has images in two splits; if one has, the figures are "
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
    """Your own images, PNG, JPEG, DICOM and others, with one CSV table

    The table has a header and one row an image, in UTF-8. Labels stand in one column, several of
    them with a separator between, or in a column of 0 and 1 for each finding; a row of zeros is
    then "No Finding". Every image needs a label and, unless ``patient`` is empty, a patient: the
    splits keep patients apart. Age, sex and view are unknown unless their columns are named.

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
        patient: the column of patients; empty if there is none.
        patient_pattern: where there is no such column: a regular expression with one group, which
            is the patient, looked for in each path, such as "(p[0-9]+)_"; empty to take each image
            for a patient of its own, whose splits then cannot be checked.
        age: the column of ages, in years (58) or as DICOM has them (058Y, 018M); empty if unknown.
        sex: the column of sexes: M or male, F or female, empty if unknown.
        view: the column of views: PA, AP or lateral, empty if unknown.
        split: the column of splits, train, val or test; empty to draw them by patient.
        test_fraction: share of the patients that are drawn for test, about.
        val_fraction: share that is drawn for val, the validation images, about.
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
        _check(label, findings, test_fraction, val_fraction)
        pattern = _pattern(patient, patient_pattern)
        self.file = self.root / table
        if not self.file.exists():
            raise UserError(f"{self.file}: there is no such table{HELP}")
        labels = (label,) if label else findings
        columns = [path, *labels, *filter(None, (patient, split, age, sex, view))]
        rows = read_table(self.file, list(dict.fromkeys(columns)), delimiter=delimiter)
        rows = rows.map(str.strip)
        if rows.empty:
            raise UserError(f"{self.file}: no row below the header; expected one an image")
        paths = self._paths(rows, path)
        found = (
            self._named(rows, label, separator, findings) if label else self._marked(rows, labels)
        )
        occurring = sorted({name for each in found for name in each})
        self.classes = tuple(dict.fromkeys((*findings, *occurring)))
        patients = self._patients(rows, patient, pattern, paths)
        shares = (test_fraction, val_fraction)
        splits = self._splits(rows, split) if split else _drawn(patients, seed, *shares)
        self._table = pd.DataFrame(
            {"path": paths, "labels": found, "patient": patients, "split": splits}
        ).assign(**self._metadata(rows, age, sex, view))

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
        raise_at_row(
            self.file, rows, faults != "", f"the {column} {next(filter(None, faults), '')}"
        )
        paths = rows[column].map(lambda text: str(PurePosixPath(text.replace("\\", "/"))))
        raise_at_row(self.file, rows, paths.duplicated(), "this image has a row above; remove one")
        return paths

    def _named(
        self, rows: pd.DataFrame, column: str, separator: str, findings: tuple[str, ...]
    ) -> pd.Series:
        """``"Mass|Edema"`` to ``("Mass", "Edema")``."""
        tuples: dict[str, tuple[str, ...]] = {}
        spelt = {
            normalized_name(NO_FINDING): (NO_FINDING, "")
        }  # spelling -> the name, and where it stands first
        for line, text in rows[column].drop_duplicates().items():
            names = tuple(dict.fromkeys(name.strip() for name in text.split(separator)))
            fault = _fault(names, column, findings)
            for name in names if not fault else ():
                known, where = spelt.setdefault(normalized_name(name), (name, f" in line {line}"))
                if known != name:
                    fault = f"the {column} {name!r} is spelt {known!r}{where or ' elsewhere'}; "
                    fault += "a class has one spelling: write the same in all rows"
            raise_at_row(self.file, rows, (rows[column] == text) & bool(fault), fault)
            tuples[text] = names
        if not findings:
            self._check_joined(rows, column, separator, tuples)
        return rows[column].map(tuples)

    def _check_joined(
        self, rows: pd.DataFrame, column: str, separator: str, found: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Refuse ``"Effusion;Mass"`` as one label where ``"Effusion"`` is a label too."""
        known = {normalized_name(name) for names in found.values() for name in names}
        for text, names in found.items():
            for name in names:
                parts = [part.strip() for part in SEPARATORS.split(name)]
                if len(parts) > 1 and any(normalized_name(part) in known for part in parts):
                    what = f"the {column} {name!r} joins labels with another separator than "
                    what += f"{separator!r}; write that, or name theirs with data.separator; if it "
                    what += "is one label, list all labels in data.findings"
                    raise_at_row(self.file, rows, rows[column] == text, what)

    def _marked(self, rows: pd.DataFrame, columns: tuple[str, ...]) -> pd.Series:
        """The names of the columns that hold a 1."""
        for name in columns:
            wrong = ~rows[name].isin(["0", "1", "0.0", "1.0"])
            raise_at_row(self.file, rows, wrong, f"the column {name!r} holds neither 0 nor 1")
        marks = rows[list(columns)].isin(["1", "1.0"]).to_numpy()
        if NO_FINDING in columns:
            none = pd.Series(~marks.any(axis=1), index=rows.index)
            raise_at_row(self.file, rows, none, f"every finding is 0, {NO_FINDING!r} too")
            both = (rows[NO_FINDING].isin(["1", "1.0"])) & (marks.sum(axis=1) > 1)
            raise_at_row(
                self.file, rows, both, f"{NO_FINDING!r} is 1, and so is a finding; mend one of them"
            )
        kinds = {
            mark: tuple(name for name, marked in zip(columns, mark, strict=True) if marked)
            for mark in set(map(tuple, marks.tolist()))
        }
        found = [kinds[tuple(mark)] or (NO_FINDING,) for mark in marks.tolist()]
        return pd.Series(found, index=rows.index)

    def _patients(
        self, rows: pd.DataFrame, column: str, pattern: re.Pattern[str] | None, paths: pd.Series
    ) -> pd.Series:
        """Of a column, else of a pattern of the paths, else each image's own."""
        if column:
            what = f'no {column}; name one, or set data.patient = "" if the table has none'
            raise_at_row(self.file, rows, rows[column] == "", what)
            none = rows[column].str.lower().isin([*NO_VALUE, "none"])
            what = f"the {column} says that there is none, and many images would be of one; "
            raise_at_row(self.file, rows, none, f'{what}name it, or set data.patient = ""')
            return rows[column]
        if pattern is None:
            self.notes = (NO_PATIENTS,)
            return paths
        found = {path: pattern.search(path) for path in paths}
        patients = paths.map({path: (match and match[1]) or "" for path, match in found.items()})
        what = f"data.patient_pattern {pattern.pattern!r} finds no patient in this path"
        raise_at_row(self.file, rows, patients == "", what)
        return patients

    def _metadata(self, rows: pd.DataFrame, age: str, sex: str, view: str) -> dict[str, Any]:
        """Age, sex and view; unknown where no column is named."""
        return {
            "age": self._ages(rows, age) if age else math.nan,
            "sex": self._config(rows, sex, SEXES, "M, F, male or female") if sex else "",
            "view": self._config(rows, view, VIEWS, "PA, AP or lateral") if view else "",
        }

    def _ages(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """In years, NaN where unknown."""
        ages = read_ages(self.file, rows, column, column)
        what = f"the {column} is above {MAX_AGE} years; leave it empty if it is unknown"
        raise_at_row(self.file, rows, ages > MAX_AGE, what)
        return ages

    def _config(
        self, rows: pd.DataFrame, column: str, known: Mapping[str, str], expected: str
    ) -> pd.Series:
        """A column of a few words as the index has them."""
        lower = rows[column].str.casefold()
        wrong = ~lower.isin(list(known))
        if wrong.any():
            what = f"the {column} is {rows.at[wrong.idxmax(), column]!r}; expected {expected}, or "
            raise_at_row(self.file, rows, wrong, f"{what}nothing if it is unknown")
        return lower.map(known)

    def _splits(self, rows: pd.DataFrame, column: str) -> pd.Series:
        what = f'the {column} is none of {", ".join(SPLITS)}; data.split = "" draws them'
        raise_at_row(self.file, rows, ~rows[column].isin(SPLITS), what)
        return rows[column]


def _check(label: str, findings: tuple[str, ...], test: float, val: float) -> None:
    """Options that are well by themselves and do not fit each other."""
    if len({*map(normalized_name, findings)}) < len(findings):
        raise UserError("[data] findings: a finding is named twice, perhaps in two spellings")
    for name in findings:
        if normalized_name(name) == normalized_name(NO_FINDING) and name != NO_FINDING:
            raise UserError(
                f"[data] findings: {name!r} is spelt {NO_FINDING!r}; write it so here and in the "
                "table"
            )
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


def _pattern(patient: str, pattern: str) -> re.Pattern[str] | None:
    """What finds the patient in a path, if anything does."""
    if not pattern:
        return None
    if patient:
        raise UserError(
            f"[data] patient_pattern: patients are those of the column {patient!r} already; set "
            'data.patient = "" to take them from the paths'
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"[data] patient_pattern: {pattern!r} is no regular expression ({error})"
        ) from None
    if compiled.groups != 1:
        raise UserError(
            f"[data] patient_pattern: {pattern!r} has {compiled.groups} groups; expected one, in "
            'parentheses, around the patient, such as "(p[0-9]+)_"'
        )
    return compiled


def _fault(names: tuple[str, ...], column: str, findings: tuple[str, ...]) -> str:
    """What is wrong with the labels of an image; empty if nothing is."""
    if "" in names:
        return f"an empty {column}; write {NO_FINDING!r} where nothing was found"
    for name in names:
        if name.lower() in NO_VALUE:
            return (
                f"the {column} is {name!r}, which is none; write {NO_FINDING!r} if nothing was "
                "found"
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
        return f"{NO_FINDING!r} and {finding!r} of one image; remove one of them"
    return ""


def _drawn(patients: pd.Series, seed: int, test: float, val: float) -> pd.Series:
    """The split of each image, of its patient and the seed alone."""

    def split(patient: str) -> str:
        digest = hashlib.sha256(f"{seed}/{patient}".encode()).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        return "test" if share < test else "val" if share < test + val else "train"

    return patients.map(split)
