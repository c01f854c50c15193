"""The splits of a recipe: which images it trains on, and which it is validated and tested on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from xraygan.errors import UserError, did_you_mean
from xraygan.parts.interfaces import Dataset
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.utils.seeding import derive_seed

from .index import DATASET_SPLITS, NO_FINDING
from .split_names import SPLIT_NAMES, SPLITS


def task_of(recipe: Recipe, dataset: Dataset) -> Task:
    """The task of a recipe: the image size, the classes and whether they exclude each other.

    Raises:
        UserError: the recipe names a class that the dataset does not know, or its protocol does
            not fit its classes.
    """
    config = recipe.tables.data
    classes = dataset.classes if config.classes == "all" else tuple(config.classes)
    limited = list(config.limit) if isinstance(config.limit, dict) else []
    for key, names, known in (
        ("classes", classes, dataset.classes),
        ("only", config.only, classes),
        ("limit", limited, classes),
    ):
        for name in names:
            if name not in known:
                raise UserError(
                    f"[data] {key}: no class is named {name!r}; {did_you_mean(name, known)}"
                )
        if len(set(names)) < len(names):
            raise UserError(f"[data] {key}: a class is named twice")
    exclusive = config.label_policy == "single" or dataset.exclusive
    if exclusive and len(classes) < 2:
        raise UserError(
            f"[data] classes: {classes[0]!r} alone leaves nothing to tell apart; name two classes "
            'or more, or set label_policy = "multi"'
        )
    if recipe.tables.evaluation.protocol == "multilabel14":
        missing = [name for name in dataset.classes if name not in (*classes, NO_FINDING)]
        if exclusive or missing or len(set(classes) - {NO_FINDING}) < 14:
            raise UserError(
                '[evaluation] protocol: "multilabel14" is measured on 14 findings that may occur '
                'together; set data.label_policy = "multi" and data.classes to all 14 findings of '
                'ChestX-ray14, or evaluation.protocol = "official"'
            )
    return Task(config.image_size, tuple(classes), exclusive, metadata=tuple(config.metadata))


def select_rows(
    table: pd.DataFrame, task: Task, recipe: Recipe
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows of a dataset's table that a recipe uses, in the order of their splits.

    Training rows follow the label policy, validation and test rows the evaluation's protocol:
    ``paper`` keeps images with exactly one finding, which is among the selected classes;
    ``official`` and ``multilabel14`` keep the dataset's whole list.

    Returns:
        The rows, and how many images are left out for each reason.

    Raises:
        UserError: a patient's images are in more than one split.
    """
    config = recipe.tables
    table = table.assign(split=_with_validation(table, config.data.validation))
    only = set(config.data.only)
    selected = only or set(task.classes)
    one = table["labels"].map(len) == 1
    known = table["labels"].map(lambda labels: not selected.isdisjoint(labels)).astype(bool)
    kept = pd.Series(True, index=table.index)
    left_out: dict[str, int] = {}
    paper = config.evaluation.protocol == "paper"
    for split in DATASET_SPLITS:
        measured = split != "train"
        single = paper if measured else task.exclusive
        key = 'evaluation.protocol = "paper"' if measured else "data.label_policy"
        in_split, name = table["split"] == split, SPLIT_NAMES[split]
        if single:
            several = in_split & ~one
            left_out[f"{name} images without exactly one finding ({key})"] = int(several.sum())
            kept &= ~several
        if single or (only and not measured):
            other = in_split & kept & ~known
            key = "data.only" if only else "data.classes"
            left_out[f"{name} images of none of the classes of {key}"] = int(other.sum())
            kept &= ~other
    selected_rows = table[kept]
    _check_patients(selected_rows)
    order = np.argsort(selected_rows["split"].map(SPLITS.index).to_numpy(), kind="stable")
    rows = selected_rows.iloc[order].reset_index(drop=True)
    return rows, {reason: count for reason, count in left_out.items() if count}


def _with_validation(table: pd.DataFrame, share: float) -> pd.Series:
    """The split of each row after ``[data] validation``.

    If the dataset has no validation images, a training patient whose number is below the share
    becomes a validation patient. The number, in [0, 1), comes from the SHA-256 of the patient
    alone, so neither the run's seed nor other rows move a patient.
    """
    split = table["split"]
    if not share or (split == "val").any():
        return split
    drawn = {patient for patient in table["patient"].unique() if _hash_share(patient) < share}
    return split.mask((split == "train") & table["patient"].isin(drawn), "val")


def _hash_share(patient: str) -> float:
    """A number in [0, 1) that depends on the patient alone."""
    # Another hash than that of the csv dataset's own split: with the same one, the patients below
    # the share would all be in its test split already.
    digest = hashlib.sha256(f"validation/{patient}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def check_validation(recipe: Recipe, splits: Collection[str], *, training: bool) -> None:
    """Check that there are validation images if the recipe needs them.

    Args:
        splits: names of the splits that have images.
        training: whether the recipe is to be trained; a finished run is not refused for its
            ``keep_best``.

    Raises:
        UserError: ``keep_best`` would choose by test images, or ``[evaluation] split`` names the
            validation images.
    """
    if "val" in splits:
        return
    share = recipe.tables.data.validation
    remedy = "set data.validation = 0.1 to set a tenth of the training patients aside"
    if share:
        remedy = f"data.validation = {share:g} sets no image aside; raise it"
    if training and recipe.tables.run.keep_best is not None:
        raise UserError(
            "[run] keep_best chooses a checkpoint, and there are no validation images to choose "
            f"by: {remedy}, or leave run.keep_best out, which a run that is resumed allows too. It "
            "never chooses by test images, whose figures would then be too good"
        )
    if recipe.tables.evaluation.split == "val":
        if not training and not share:
            remedy = "a run that is trained with data.validation = 0.1 has some"
        raise UserError(
            f'[evaluation] split is "val", and there are no validation images: {remedy}'
        )


def apply_limit(table: pd.DataFrame, task: Task, recipe: Recipe) -> pd.Series:
    """The split of each row after ``[data] limit``; "" for rows that it leaves out.

    Patients come in an order drawn from the run's seed. Their training images are taken one by one
    unless one of an image's classes has reached its limit; images with none of the classes count as
    a class of their own. Images that are left out become the split ``unlabelled`` if
    ``[data] unlabelled`` is set.
    """
    config = recipe.tables.data
    split = table["split"].copy()
    if config.limit is None:
        return split
    limits = config.limit
    if not isinstance(limits, Mapping):
        limits = dict.fromkeys((*task.classes, NO_FINDING), limits)
    source = np.random.default_rng(derive_seed(recipe.tables.run.seed, "limit"))
    train = table[split == "train"]
    patients = train["patient"].unique()
    rank = dict(zip(source.permutation(patients), range(len(patients)), strict=True))
    order = np.argsort(train["patient"].map(rank).to_numpy(), kind="stable")
    taken: Counter[str] = Counter()
    for row, labels in train["labels"].iloc[order].items():
        known = [name for name in labels if name in task.classes] or [NO_FINDING]
        if all(taken[name] < limits.get(name, len(table)) for name in known):
            taken.update(known)
        else:
            split[row] = "unlabelled" if config.unlabelled else ""
    return split


def _check_patients(table: pd.DataFrame) -> None:
    splits = table.groupby("patient")["split"].nunique()
    if shared := sorted(splits.index[splits > 1]):
        names = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
        raise UserError(
            f"{len(shared)} patients are in more than one split: {names}. A patient's images must "
            "all be in train, in val or in test, or the test measures memory"
        )
