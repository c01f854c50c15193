"""Checks of what a dataset plugin returns, before anything else uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import pandas as pd

from xraygan.errors import did_you_mean, shown
from xraygan.parts.interfaces import Dataset
from xraygan.parts.part_config import PartConfig
from xraygan.parts.plugin_errors import plugin_errors, plugin_fault
from xraygan.utils.naming import label_fault
from xraygan.utils.paths import path_fault

from .tables import normalized_name

COLUMNS = ("path", "labels", "patient", "split", "age", "sex", "view")
DATASET_SPLITS = ("train", "val", "test")
SEXES = ("M", "F", "")

#: the label of an image without findings
NO_FINDING = "No Finding"


def check_classes(choice: PartConfig, dataset: Dataset) -> None:
    """Check the class names of a dataset.

    Raises:
        UserError: they are no printable names, or two of them are the same.
    """
    with plugin_errors(choice, "classes"):
        classes = getattr(dataset, "classes", None)
    if not isinstance(classes, tuple | list) or not all(isinstance(c, str) for c in classes):
        raise plugin_fault(choice, f"classes is {shown(classes)}; expected a tuple of names")
    if not classes or len(set(classes)) < len(classes):
        raise plugin_fault(choice, f"classes is {shown(classes)}; expected names, each once")
    for name in classes:
        if fault := label_fault(name):
            raise plugin_fault(choice, f"the class {shown(name)} {fault}")
    spelt: dict[str, str] = {}
    for name in classes:
        if (other := spelt.setdefault(normalized_name(name), name)) != name:
            message = f"the classes {other!r} and {name!r} differ only in spelling"
            raise plugin_fault(choice, f"{message}; expected one name for each class")


def read_index(choice: PartConfig, dataset: Dataset) -> pd.DataFrame:
    """The dataset's table, with the columns of :meth:`xraygan.Dataset.index`, checked.

    Raises:
        UserError: a column is missing or has a wrong value; the message names the plugin and the
            first row at fault.
    """
    with plugin_errors(choice, "index()"):
        table = dataset.index()
    if not isinstance(table, pd.DataFrame):
        kind = type(table).__name__
        raise plugin_fault(choice, f"index() returned {kind}; expected a pandas DataFrame")
    for name in COLUMNS:
        if (count := list(table.columns).count(name)) != 1:
            hint = (
                "is there twice" if count else f"is missing; {did_you_mean(name, map(str, table))}"
            )
            raise plugin_fault(choice, f"index(): the column {name!r} {hint}")
    # Python objects from here on: pandas iterates ten times as slowly over its own strings, and
    # groups and joins other types, such as categories, in other ways.
    table = table[list(COLUMNS)].reset_index(drop=True).astype(object)
    for name, (find_fault, expected) in _column_checks(dataset).items():
        values = table[name].tolist()
        # Each distinct value once: the labels of 112,120 images are 836 different tuples.
        for value in values if name == "path" else _distinct(values):
            if reason := find_fault(value):
                row = next(i for i, other in enumerate(values) if other is value)
                message = f"index(), row {row}: {name} is {shown(value)}"
                raise plugin_fault(choice, f"{message}, which {reason}; expected {expected}")
    if (again := table["path"].duplicated()).any():
        path = table["path"][again.idxmax()]
        raise plugin_fault(choice, f"index(): the path {path!r} is in two rows")
    try:
        ages = table["age"].astype(float)
    except (TypeError, ValueError):
        raise plugin_fault(choice, "index(): age is not of numbers (NaN if unknown)") from None
    return table.assign(age=ages)


def read_notes(choice: PartConfig, dataset: Dataset) -> tuple[list[str], dict[str, int]]:
    """A dataset's notes on its data, and the images that it leaves out: reason -> how many.

    Raises:
        UserError: the notes are no texts, or what it leaves out are no numbers by reason.
    """
    with plugin_errors(choice, "notes and left_out"):
        notes, left_out = dataset.notes, dataset.left_out
    if not isinstance(notes, tuple | list) or not all(isinstance(note, str) for note in notes):
        raise plugin_fault(choice, f"notes is {shown(notes)}; expected a tuple of texts")
    counts = left_out.items() if isinstance(left_out, Mapping) else [("", left_out)]
    if not all(isinstance(r, str) and isinstance(n, Integral) and r for r, n in counts):
        expected = "expected reason -> number of images"
        raise plugin_fault(choice, f"left_out is {shown(left_out)}; {expected}")
    return list(notes), {reason: int(count) for reason, count in counts}


def _column_checks(dataset: Dataset) -> dict[str, tuple[Callable[[Any], str], str]]:
    """Column -> a function that says what is wrong with a value, "" for nothing; and what values
    are expected."""
    classes = frozenset(dataset.classes)

    def labels(value: Any) -> str:
        if not isinstance(value, tuple):
            return "is no tuple"
        try:
            unknown = [name for name in value if name not in classes]
        except TypeError:
            return "holds what is no name"
        if unknown:
            return f"names {unknown[0]!r}, no class"
        if len(set(value)) < len(value):
            return "names a class twice"
        return (
            f"says {NO_FINDING!r} beside a finding"
            if NO_FINDING in value and len(value) > 1
            else ""
        )

    def text(known: tuple[str, ...] = (), *, empty: bool = True) -> Callable[[Any], str]:
        def fault(value: Any) -> str:
            if not isinstance(value, str):
                return "is no text"
            if known and value not in known:
                return "is none of them"
            return "" if value or empty else "is empty"

        return fault

    def path(value: Any) -> str:
        return path_fault(value) if isinstance(value, str) else "is no text"

    return {
        "path": (path, "a path below data.root"),
        "labels": (labels, "a tuple of names of its classes"),
        "patient": (text(empty=False), "what tells patients apart"),
        "split": (text(DATASET_SPLITS), ", ".join(map(repr, DATASET_SPLITS))),
        "sex": (text(SEXES), ", ".join(map(repr, SEXES))),
        "view": (text(), "text, empty if unknown"),
    }


def _distinct(values: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(values))
    except TypeError:  # an unhashable one, such as a list, which is at fault
        return values
