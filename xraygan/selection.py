"""Which of a dataset's images a recipe trains on, and which it is tested on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from .errors import UserError, nearest
from .interfaces import Dataset, Task
from .recipe import Recipe
from .seeding import derive_seed

SPLITS = ("train", "val", "test", "unlabelled")

#: the label that says that there is no finding
NORMAL = "No Finding"


def task_of(recipe: Recipe, dataset: Dataset) -> Task:
    """The image size, the classes and whether they exclude each other.

    Raises:
        UserError: the recipe names a class that the dataset does not know, or its protocol does
            not fit its classes.
    """
    words = recipe.tables.data
    classes = dataset.classes if words.classes == "all" else tuple(words.classes)
    limited = list(words.limit) if isinstance(words.limit, dict) else []
    for key, names, known in (
        ("classes", classes, dataset.classes),
        ("only", words.only, classes),
        ("limit", limited, classes),
    ):
        for name in names:
            if name not in known:
                raise UserError(f"[data] {key}: no class is named {name!r}; {nearest(name, known)}")
        if len(set(names)) < len(names):
            raise UserError(f"[data] {key}: a class is named twice")
    exclusive = words.label_policy == "single" or dataset.exclusive
    if exclusive and len(classes) < 2:
        raise UserError(
            f"[data] classes: {classes[0]!r} alone leaves nothing to tell apart; name two classes "
            'or more, or set label_policy = "multi"'
        )
    if recipe.tables.evaluation.protocol == "multilabel14":
        missing = [name for name in dataset.classes if name not in (*classes, NORMAL)]
        if exclusive or missing or len(set(classes) - {NORMAL}) < 14:
            raise UserError(
                '[evaluation] protocol: "multilabel14" is measured on 14 findings that may occur '
                'together; set data.label_policy = "multi" and data.classes to all 14 findings of '
                'ChestX-ray14, or evaluation.protocol = "official"'
            )
    return Task(words.image_size, tuple(classes), exclusive, metadata=tuple(words.metadata))


def choose(table: pd.DataFrame, task: Task, recipe: Recipe) -> pd.DataFrame:
    """The rows that a recipe uses, in the order of their splits.

    Training and validation rows follow the label policy, test rows the evaluation's protocol:
    ``paper`` keeps images with exactly one finding, which is among the selected classes;
    ``official`` and ``multilabel14`` keep the dataset's whole test list.

    Raises:
        UserError: a patient's images are in more than one split.
    """
    only = set(recipe.tables.data.only)
    selected = only or set(task.classes)
    found = table["labels"]
    single = found.map(lambda labels: len(labels) == 1 and labels[0] in selected).astype(bool)
    if task.exclusive:
        train = single
    elif only:
        train = found.map(lambda labels: not only.isdisjoint(labels)).astype(bool)
    else:
        train = pd.Series(True, index=table.index)
    test = single if recipe.tables.evaluation.protocol == "paper" else True
    is_test = table["split"] == "test"
    chosen = table[(is_test & test) | (~is_test & train)]
    _check_patients(chosen)
    order = np.argsort(chosen["split"].map(SPLITS.index).to_numpy(), kind="stable")
    return chosen.iloc[order].reset_index(drop=True)


def limit(table: pd.DataFrame, task: Task, recipe: Recipe) -> pd.Series:
    """The split of each row once ``[data] limit`` is applied; "" for rows that it leaves out.

    Patients are taken in an order drawn from the run's seed, and their training images until every
    class has its limit; an image with a class that has no room is left out, and images with none of
    the classes count as one class more. What is left out becomes the split ``unlabelled`` where
    ``[data] unlabelled`` asks for it.
    """
    words = recipe.tables.data
    split = table["split"].copy()
    if words.limit is None:
        return split
    limits = words.limit
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys((*task.classes, NORMAL), limits)
    source = np.random.default_rng(derive_seed(recipe.tables.run.seed, "limit"))
    train = table[split == "train"]
    patients = train["patient"].unique()
    turn = dict(zip(source.permutation(patients), range(len(patients)), strict=True))
    order = np.argsort(train["patient"].map(turn).to_numpy(), kind="stable")
    taken: Counter[str] = Counter()
    for row, labels in train["labels"].iloc[order].items():
        known = [name for name in labels if name in task.classes] or [NORMAL]
        if all(taken[name] < limits.get(name, len(table)) for name in known):
            taken.update(known)
        else:
            split[row] = "unlabelled" if words.unlabelled else ""
    return split


def _check_patients(table: pd.DataFrame) -> None:
    splits = table.groupby("patient")["split"].nunique()
    if shared := sorted(splits.index[splits > 1]):
        names = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
        raise UserError(
            f"{len(shared)} patients are in more than one split: {names}. A patient's images must "
            "all be in train, in val or in test, or the test measures memory"
        )
