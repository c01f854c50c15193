"""Images of one class, and files of them, from a trained graph."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from xraygan.data.metadata import parse_metadata
from xraygan.errors import UserError, nearest
from xraygan.evaluation.generation import Generated, generate
from xraygan.utils.csv_cells import as_csv
from xraygan.utils.output_folder import fill, refuse_filled
from xraygan.utils.progress import Display
from xraygan.utils.seeding import rng

from .session import Session

#: draws for one image of a class before an unconditional generator is given up
PATIENCE = 200
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

    Nothing is written before all of them are there.

    Raises:
        UserError: the run has no generator or no such class, the folder is not empty or cannot be
            written, or the generator hardly ever makes the class.
    """
    graph = session.graph
    refuse_filled(out)
    names = graph.task.classes
    made, probs = sample(session, count, class_name, seed, display, metadata)
    table = pd.DataFrame({"file": [f"{i:06d}.png" for i in range(count)], "step": step})
    for column, name in enumerate(names):
        if graph.networks["generator"].conditional:
            table[f"condition:{name}"] = made.labels[:, column].numpy()
        if probs is not None:
            table[f"p:{name}"] = probs[:, column].numpy().round(6)
    files = {}
    for file, image in zip(table["file"], made.images.numpy(), strict=True):
        Image.fromarray(image).save(content := io.BytesIO(), format="PNG")
        files[file] = content.getvalue()
    fill(out, {**files, "generated.csv": as_csv(table).encode()})


def sample(
    session: Session,
    count: int,
    class_name: str | None,
    seed: int,
    display: Display,
    metadata: Mapping[str, object] | None = None,
) -> tuple[Generated, Tensor | None]:
    """Generated images and, where the run has a classifier, what it says of them ``(count, K)``.

    Args:
        metadata: what all images are to have, for example ``{"age": 60, "sex": "F"}``, where the
            generator is told of it; what is left out is unknown. By default each image has that of
            a training image.

    Raises:
        UserError: the run has no generator or no such class, its generator is not told of the
            metadata, or an unconditional generator hardly ever makes the class.
    """
    graph, source = session.graph, rng(session.device, seed, "generate")
    names = graph.task.classes
    if "generator" not in graph.networks:
        raise UserError(f"{session.recipe.name}: the run has no generator")
    if class_name is not None and class_name not in names:
        raise UserError(f"--class: no class is named {class_name!r}; {nearest(class_name, names)}")
    conditional = graph.networks["generator"].conditional
    wanted = None if class_name is None else names.index(class_name)
    labels: Tensor | None = None
    if wanted is not None:
        labels = torch.zeros(1, len(names), dtype=torch.uint8)
        labels[0, wanted] = 1
    task = graph.task
    if metadata and not conditional:
        raise UserError("metadata: the run's generator is unconditional and is told of none")
    told = parse_metadata(metadata, task.metadata) if metadata else None
    draws_labels = labels is None and conditional and not task.exclusive
    if draws_labels or (told is None and task.metadata):
        known = session.conditions()
        labels = known.labels if draws_labels else labels
        told = known.metadata if told is None else told
    found: list[tuple[Tensor, ...]] = []
    have = drawn = 0
    with display.progress("generating", count) as advance:
        while have < count:
            batch: tuple[Tensor, ...]
            batch = made = generate(
                graph, CHUNK, source, device=session.device, labels=labels, metadata=told
            )
            drawn += CHUNK
            if "classifier" in graph.networks:
                probs = session.evaluation().classify(made.images, made.metadata, real=False)[1]
                batch = (*made, torch.from_numpy(probs))
            if wanted is not None and not conditional:
                batch = _of_class(batch, wanted, exclusive=task.exclusive)
            found.append(tuple(part[: count - have] for part in batch))
            have += len(found[-1][0])
            advance(len(found[-1][0]))
            if have < count and drawn >= PATIENCE * count:
                raise UserError(
                    f"--class {class_name}: the classifier took only {have} of {drawn} generated "
                    f"images for {class_name!r}; nothing was written. Train a conditional "
                    "generator (recipe cgan), or ask for fewer images"
                )
    images, conditions, metadata_of, *rest = (torch.cat(p) for p in zip(*found, strict=True))
    return Generated(images, conditions, metadata_of), rest[0] if rest else None


def _of_class(batch: tuple[Tensor, ...], wanted: int, *, exclusive: bool) -> tuple[Tensor, ...]:
    """Of a generated batch with its probabilities last, what the classifier takes for a class.

    Raises:
        UserError: there is no classifier to ask.
    """
    if len(batch) == len(Generated._fields):
        raise UserError("--class: the run's generator is unconditional and it has no classifier")
    probs = batch[-1]
    keep = probs.argmax(dim=1) == wanted if exclusive else probs[:, wanted] > 0.5
    return tuple(part[keep] for part in batch)
