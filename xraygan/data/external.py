"""The images of another data set, with labels in a run's classes: an external test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xraygan.errors import UserError, did_you_mean
from xraygan.parts.interfaces import Dataset
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe

from .datamodule import no_progress, open_dataset
from .decode import Progress
from .image_cache import open_store
from .image_splits import ImageSplit, build_split
from .image_store import list_reasons, unreadable_images
from .index import NO_FINDING, read_index, read_notes


@dataclass(frozen=True)
class ExternalImages:
    """The images of an external test set.

    Attributes:
        split: the images, labelled in the run's classes.
        contents: N identities of their contents, as the data set's ``identity`` gives them.
        dataset: the name of the dataset plugin.
        classes: the run's class for each class of the data set that has one.
        lacking: the run's classes that the data set does not label.
        left_out: images that are not measured: reason -> how many.
        warnings: sentences that a reader of the figures should know of the data.
    """

    split: ImageSplit
    contents: list[str]
    dataset: str
    classes: dict[str, str]
    lacking: tuple[str, ...]
    left_out: dict[str, int]
    warnings: list[str]


def match_classes(
    dataset: Dataset, names: Sequence[str], given: Mapping[str, str], *, exclusive: bool
) -> dict[str, str]:
    """The run's class for each class of an external data set that has one.

    Args:
        names: the run's classes that are measured.
        given: the run's class for classes of other names; classes of the same name are the same.
        exclusive: whether the run's classes exclude each other.

    Raises:
        UserError: a name is not known, or too few of the run's classes are labelled to measure.
    """
    known = {*dataset.classes, NO_FINDING}
    for theirs, ours in given.items():
        if theirs not in known:
            hint = did_you_mean(theirs, [*dataset.classes])
            raise UserError(f"--map {theirs}={ours}: the external data have no class {theirs!r}; "
                            f"{hint}")  # fmt: skip
        if ours not in names:
            hint = did_you_mean(ours, names)
            raise UserError(f"--map {theirs}={ours}: the run has no class {ours!r}; {hint}")
    same = {name: name for name in dataset.classes if name in names}
    matched = {**same, **given}
    found = {*matched.values()}
    if len(found) < (2 if exclusive else 1):
        reason = f"only {', '.join(found)} is" if found else "none is"
        why = ", and the run's classes exclude each other, so two are needed" if found else ""
        raise UserError(
            f"of the run's classes ({', '.join(names)}) {reason} labelled in the external "
            f'data{why}; name those that correspond with --map "THEIRS=OURS". The external data '
            f"have {', '.join(dataset.classes)}"
        )
    return matched


def read_external(
    recipe: Recipe,
    task: Task,
    given: Mapping[str, str],
    *,
    only: Sequence[str] = (),
    all_images: bool = False,
    progress: Progress = no_progress,
) -> ExternalImages:
    """Read and decode an external test set.

    If the run's classes exclude each other, images with none or several of the matched classes are
    left out; otherwise every image counts.

    Args:
        recipe: its ``[data]`` describes the external data.
        task: the run's.
        given: the run's class for classes of the external data, as --map gives it.
        only: the run's classes that are measured; all by default.
        all_images: whether images of every split count; only the data set's test images otherwise.

    Raises:
        UserError: the data are at fault, or no image is left.
    """
    dataset, choice = open_dataset(recipe), recipe.choices["data"]
    names = only or task.classes
    matched = match_classes(dataset, names, given, exclusive=task.exclusive)
    table = read_index(choice, dataset)
    notes, left_out = read_notes(choice, dataset)
    if not all_images:
        others = table["split"] != "test"
        left_out |= {"images of other splits than test": int(others.sum())}
        table = table[~others]
    table = table.assign(labels=table["labels"].map(lambda labels: _translated(labels, matched)))
    if task.exclusive:
        table, reasons = _with_one_class(table)
        left_out |= reasons
    left_out = {reason: count for reason, count in left_out.items() if count}
    if table.empty:
        what = "image" if all_images else "test image"
        hint = "" if all_images else "; --all-images measures the images of every split"
        raise UserError(f"the external data have no {what} of the matched classes{hint}")
    split, contents, bad = _decoded(recipe, dataset, table.reset_index(drop=True), task, progress)
    warnings = [*notes]
    if bad:
        left_out["images that cannot be read"] = len(bad)
        warnings.append(f"{len(bad)} images cannot be read and are left out:{list_reasons(bad, 1)}")
    lacking = tuple(name for name in names if name not in matched.values())
    return ExternalImages(
        split, contents, choice.part.name, matched, lacking, left_out, warnings
    )  # fmt: skip


def _with_one_class(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows with exactly one label, and how many have another number of them."""
    labels = table["labels"].map(len)
    return table[labels == 1], {
        "images of none of the matched classes": int((labels == 0).sum()),
        "images of several of the matched classes": int((labels > 1).sum()),
    }


def _translated(labels: tuple[str, ...], matched: Mapping[str, str]) -> tuple[str, ...]:
    """Labels in the run's classes; an image without any label has no finding."""
    named = labels or (NO_FINDING,)
    return tuple(dict.fromkeys(matched[name] for name in named if name in matched))


def _decoded(
    recipe: Recipe, dataset: Dataset, table: pd.DataFrame, task: Task, progress: Progress
) -> tuple[ImageSplit, list[str], dict[str, str]]:
    """The images of a table, the identities of their contents, and those that cannot be read."""
    store = open_store(recipe, dataset, list(table["path"]), progress)
    if store.bad and recipe.tables.data.on_bad_image == "stop":
        raise unreadable_images(store.bad, len(table))
    good = ~table["path"].isin(store.bad).to_numpy()
    if not good.any():
        raise UserError(f"no image of the external data can be read:{list_reasons(store.bad)}")
    split = build_split(store.pixels, table, good, task.classes)
    return split, [store.contents[row] for row in np.flatnonzero(good).tolist()], store.bad
