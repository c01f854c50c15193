"""Samples images from a trained generator, of one class if asked, and writes them as files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xraygan.data.index import NO_FINDING
from xraygan.data.metadata import parse_metadata
from xraygan.errors import UserError, did_you_mean
from xraygan.evaluation.generation import Generated, generate
from xraygan.utils.csv_cells import as_csv
from xraygan.utils.output_folder import require_empty_folder, write_folder
from xraygan.utils.progress import Display
from xraygan.utils.seeding import rng

from .session import Session

#: most draws for one image of a class from an unconditional generator
MAX_DRAWS = 200
#: images that are generated at once
CHUNK = 64


def write_images(
    session: Session,
    step: int,
    count: int,
    class_name: str | None,
    seed: int,
    out: Path,
    display: Display,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Generate images and write them as ``NNNNNN.png`` with a ``generated.csv``.

    Nothing is written before all images are generated.

    Raises:
        UserError: the run has no generator or no such class, the folder is not empty or cannot be
            written, or the generator hardly ever makes the class.
    """
    require_empty_folder(out)
    generated, probs = sample_images(session, count, class_name, seed, display, metadata)
    table, files = table_of(session, generated, probs, step), {}
    for file, image in zip(table["path"], generated.images.numpy(), strict=True):
        Image.fromarray(image).save(content := io.BytesIO(), format="PNG")
        files[file] = content.getvalue()
    write_folder(out, {**files, "generated.csv": as_csv(table).encode()})


def table_of(
    session: Session, generated: Generated, probs: Tensor | None, step: int, prefix: str = ""
) -> pd.DataFrame:
    """The table of generated images: their paths, labels, conditions and class probabilities.

    Args:
        prefix: of the names of their files.
    """
    table = pd.DataFrame({"path": [f"{prefix}{i:06d}.png" for i in range(len(generated.images))]})
    if (labels := _labels_of(session, generated, probs)) is not None:
        table["label"] = labels
    table["step"] = step
    for column, name in enumerate(session.graph.task.classes):
        if session.graph.networks["generator"].conditional:
            table[f"condition:{name}"] = generated.labels[:, column].numpy()
        if probs is not None:
            table[f"p:{name}"] = probs[:, column].numpy().round(6)
    return table


def _labels_of(session: Session, generated: Generated, probs: Tensor | None) -> list[str] | None:
    """The label of each image as tables of images have it: what it was generated from, else what
    the classifier takes it for; None if neither is known."""
    task = session.graph.task
    if session.graph.networks["generator"].conditional:
        matrix = generated.labels.bool()
    elif probs is not None:
        matrix = probs > 0.5
        if task.exclusive:
            matrix = F.one_hot(probs.argmax(dim=1), len(task.classes)).bool()
    else:
        return None
    names = ([name for name, on in zip(task.classes, row, strict=True) if on] for row in matrix)
    return ["|".join(one) or NO_FINDING for one in names]


def sample_images(
    session: Session,
    count: int,
    class_name: str | None,
    seed: int,
    display: Display,
    metadata: Mapping[str, object] | None = None,
) -> tuple[Generated, Tensor | None]:
    """Generated images and, if the run has a classifier, their class probabilities ``(count, K)``.

    Of an unconditional generator's images, those of a class are the ones that the classifier takes
    for it: batches are drawn until ``count`` of them are found.

    Args:
        metadata: that of all images, for example ``{"age": 60, "sex": "F"}``, if the generator
            reads it; a name that is left out is unknown. By default each image has the metadata of
            a training image.

    Raises:
        UserError: the run has no generator or no such class, its generator does not read the
            metadata, or an unconditional generator hardly ever makes the class.
    """
    graph, source = session.graph, rng(session.device, seed, "generate")
    index = _check_class(session, class_name)
    labels, encoded = _sampling_conditions(session, index, metadata)
    filtered = index is not None and not graph.networks["generator"].conditional
    batches: list[tuple[Tensor, ...]] = []
    kept = drawn = 0
    with display.progress("generating", count) as advance:
        while kept < count:
            batch = _draw_batch(session, source, labels, encoded)
            drawn += CHUNK
            if filtered and index is not None:
                batch = _select_class(batch, index, exclusive=graph.task.exclusive)
            batches.append(tuple(part[: count - kept] for part in batch))
            kept += len(batches[-1][0])
            advance(len(batches[-1][0]))
            if kept < count and drawn >= MAX_DRAWS * count:
                raise UserError(
                    f"--class {class_name}: the classifier took only {kept} of {drawn} generated "
                    f"images for {class_name!r}; nothing was written. Train a conditional "
                    "generator (recipe cgan), or ask for fewer images"
                )
    images, conditions, metadata_of, *rest = (torch.cat(p) for p in zip(*batches, strict=True))
    return Generated(images, conditions, metadata_of), rest[0] if rest else None


def _check_class(session: Session, class_name: str | None) -> int | None:
    """The index of a class, None for no class.

    Raises:
        UserError: the run has no generator, or no class of that name.
    """
    names = session.graph.task.classes
    if "generator" not in session.graph.networks:
        raise UserError(f"{session.recipe.name}: the run has no generator")
    if class_name is not None and class_name not in names:
        raise UserError(
            f"--class: no class is named {class_name!r}; {did_you_mean(class_name, names)}"
        )
    return None if class_name is None else names.index(class_name)


def _sampling_conditions(
    session: Session, index: int | None, metadata: Mapping[str, object] | None
) -> tuple[Tensor | None, Tensor | None]:
    """Label vectors ``(L, K)`` and encoded metadata ``(L, 2 M)`` to generate from.

    Labels are None for an unconditional generator and for exclusive classes, which are drawn
    uniformly; metadata is None if the run has none. Label vectors that are not for a class, and
    metadata that the user does not give, are those of the training images.

    Raises:
        UserError: the generator does not read the metadata.
    """
    task, conditional = session.graph.task, session.graph.networks["generator"].conditional
    labels: Tensor | None = None
    if index is not None:
        labels = torch.zeros(1, len(task.classes), dtype=torch.uint8)
        labels[0, index] = 1
    if metadata and not conditional:
        raise UserError("metadata: the run's generator is unconditional and reads no metadata")
    encoded = parse_metadata(metadata, task.metadata) if metadata else None
    draws_labels = labels is None and conditional and not task.exclusive
    if draws_labels or (encoded is None and task.metadata):
        training = session.conditions()
        labels = training.labels if draws_labels else labels
        encoded = training.metadata if encoded is None else encoded
    return labels, encoded


def _draw_batch(
    session: Session, source: torch.Generator, labels: Tensor | None, metadata: Tensor | None
) -> tuple[Tensor, ...]:
    """:data:`CHUNK` images with labels and metadata, and, if there is a classifier, their class
    probabilities ``(CHUNK, K)`` last."""
    generated = generate(
        session.graph, CHUNK, source, device=session.device, labels=labels, metadata=metadata
    )
    if "classifier" not in session.graph.networks:
        return generated
    images, metadata = generated.images, generated.metadata
    probs = session.evaluation().classify(images, metadata, real=False)[1]
    return (*generated, torch.from_numpy(probs))


def _select_class(batch: tuple[Tensor, ...], index: int, *, exclusive: bool) -> tuple[Tensor, ...]:
    """The rows of a generated batch, with its probabilities last, that the classifier takes for a
    class.

    Raises:
        UserError: the batch has no probabilities, because the run has no classifier.
    """
    if len(batch) == len(Generated._fields):
        raise UserError("--class: the run's generator is unconditional and it has no classifier")
    probs = batch[-1]
    keep = probs.argmax(dim=1) == index if exclusive else probs[:, index] > 0.5
    return tuple(part[keep] for part in batch)
