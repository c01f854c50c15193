"""The audit of a folder of images from any generator."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xraygan._version import __version__
from xraygan.data.folders import FolderImages
from xraygan.errors import UserError
from xraygan.evaluation.folders import FolderEvaluation
from xraygan.session.folders import (
    FolderOptions,
    measuring_recipe,
    open_folders,
    protocol_of,
    shared_files,
)
from xraygan.utils.progress import Display

from .audit import Examined, examine, protocol, random_source
from .held_out import HeldOut
from .nearest_neighbors import Embed, thumbnails
from .verdict import notes

Object = dict[str, Any]

NO_PATIENTS = (
    "no patients are known: each file counts as a patient of its own. If a patient has several "
    "images, the intervals are too narrow, and if these are both training and held-out images, "
    "copies may be missed; --table names the patients"
)


def audit_folders(
    images: Path,
    training: Path,
    held_out: Path,
    options: FolderOptions,
    seed: int,
    display: Display,
    table: Path | None = None,
) -> tuple[Object, bytes]:
    """Audit images against training and held-out images, each in a folder.

    The statistics are those of :func:`xraygan.audit.audit.audit`, without the discriminator.

    Args:
        options: copies are searched in pixels, and in the features of its extractor if it names
            one.
        table: labels and patients of the training and held-out images, as the dataset ``csv``
            reads them; without it each file is its own patient.

    Returns:
        The content of ``audit.json``, and of ``audit.png``.

    Raises:
        UserError: an option, a folder, an image or the table is at fault.
    """
    recipe = measuring_recipe(options, metrics=False, table=table)
    folders = {"--images": images, "--training": training, "--held-out": held_out}
    evaluation, read = open_folders(recipe, options, folders, display, table)
    _check_patients(read["--training"], read["--held-out"], table)
    held = _draw(evaluation, seed, table)
    embeds = folder_spaces(evaluation, options.extractor)
    split = evaluation.generated
    found = examine(evaluation, embeds, split.images[:], held, seed, display, split.paths)
    described = protocol_of(recipe, options, read)
    content = {
        **found.verdict,
        "xraygan": __version__,
        "protocol": protocol(evaluation, held, len(split), seed)
        | {"dataset": "folders", "held_out": _held_out(table), **described},
        **found.figures,
        "notes": _notes(found, read, table),
        "nearest": found.nearest,
    }
    return content, found.picture


def folder_spaces(evaluation: FolderEvaluation, extractor: str | None) -> dict[str, Embed]:
    """The spaces of the distances: pixels and, if an extractor is named, its features."""
    embeds: dict[str, Embed] = {"pixels": partial(thumbnails, evaluation)}
    if extractor is not None:
        embeds["features"] = partial(evaluation.embed, extractor)
    return embeds


def _draw(evaluation: FolderEvaluation, seed: int, table: Path | None) -> HeldOut:
    """The held-out images of the audit.

    Raises:
        UserError: none of them has the labels of a training image.
    """
    try:
        return HeldOut.draw(evaluation.train, evaluation.test, random_source(seed, "held-out"))
    except UserError:
        raise UserError(
            f"{table}: no held-out image has the labels of a training image; the audit needs "
            "held-out images of the same classes"
        ) from None


def _held_out(table: Path | None) -> str:
    if table is None:
        return "all files of the folder, each as a patient of its own"
    return "held-out images with the labels of a training image, one a patient"


def _check_patients(training: FolderImages, held_out: FolderImages, table: Path | None) -> None:
    """Refuse a patient of both folders, by the table.

    Raises:
        UserError: it names the first such patient.
    """
    if table is None:
        return
    both = np.intersect1d(training.split.patients, held_out.split.patients)
    if len(both):
        others = f" (as {len(both) - 1} others)" if len(both) > 1 else ""
        raise UserError(
            f"{table}: the patient {str(both[0])!r} has images in --training {training.folder} and "
            f"in --held-out {held_out.folder}{others}; held-out images must be of other patients"
        )


def _notes(found: Examined, read: dict[str, FolderImages], table: Path | None) -> list[str]:
    """Notes on the limits of the figures; no training is known that used other images."""
    lines = [NO_PATIENTS] if table is None else []
    if shared := shared_files(read["--training"], read["--held-out"]):
        (first, second), count = shared[0], len(shared)
        lines.append(
            f"held-out files that are also training files: {count}, as {second!r} is {first!r}. "
            "They hide copies of training images; remove them from --held-out"
        )
    return lines + notes(*found.tests, "folders", "folders")
