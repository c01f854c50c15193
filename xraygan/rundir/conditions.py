"""What a run directory keeps of its training data, so that its networks need no data to be used."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xraygan.data.datamodule import ImageSplit
from xraygan.data.metadata import CATEGORIES, encode, metadata_columns
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.utils.csv_cells import numbers, parse_csv, write_table

from . import file_readers as parsing
from .directory import RunDirectory
from .provenance import read_environment

#: years; some data sets have ages in months among them
OLDEST = 2000
#: training images, at most: each becomes a row in memory
MOST = 10_000_000


class Conditions(NamedTuple):
    """What generators are asked for: of each training image, in no order that tells which it is.

    Attributes:
        labels: ``(L, K)`` uint8.
        metadata: ``(L, 2 M)`` float32, encoded.
    """

    labels: Tensor
    metadata: Tensor


def recorded_task(place: RunDirectory, recipe: Recipe) -> Task | None:
    """The task that a run's networks were built for, as its ``environment.json`` has it.

    Returns:
        None where that file is missing, damaged, or does not fit the recipe.
    """
    dataset = read_environment(place).get("dataset", {})
    try:
        counts, images = dataset["classes"]["train"], dataset["images"]["train"]
    except KeyError:
        return None
    words = recipe.tables.data
    if len(counts) < 1 or (words.classes != "all" and list(counts) != words.classes):
        return None
    exclusive = words.label_policy == "single" or recipe.choices["data"].part.cls.exclusive  # type: ignore[attr-defined]
    return Task(
        words.image_size,
        tuple(counts),
        exclusive,
        tuple(counts.values()),
        images,
        tuple(words.metadata),
    )


def write_conditions(place: RunDirectory, train: ImageSplit, graph: TrainingGraph) -> None:
    """Write ``conditions.csv``: a row for each combination of labels and metadata that training
    images have, in sorted order, and how many of them have it.

    Patients and files are not named, and the order of the images is not kept. It is written once,
    and for generators that need it alone: classes that exclude each other are drawn uniformly.

    Raises:
        OSError: it cannot be written.
    """
    task, generator = graph.task, graph.networks.get("generator")
    drawn = generator is not None and generator.conditional and not task.exclusive
    if generator is None or not (drawn or task.metadata) or place.conditions.exists():
        return
    columns: dict[str, np.ndarray] = {
        f"label:{name}": train.label_matrix[:, i] for i, name in enumerate(task.classes)
    }
    columns |= {name: train.metadata[name].astype(np.float64) for name in task.metadata}
    table = pd.DataFrame(columns).groupby(list(columns), dropna=False).size()
    found = table.reset_index(name="images")
    for name in task.metadata:
        if (words := CATEGORIES[name]) is not None:
            found[name] = found[name].map({1.0: words[0], 0.0: words[1]})
    write_table(place.conditions, found)


def read_conditions(place: RunDirectory, task: Task) -> Conditions:
    """The content of ``conditions.csv``, a row a training image.

    Raises:
        FileNotFoundError: the run has none.
        UserError: it cannot be read, or is not of these training images.
    """
    remedy = (
        "it is damaged: remove it, and the labels and metadata to generate from are read from the "
        "training data"
    )
    return parsing.needed(place.conditions, partial(_parse, task=task), remedy)


def _parse(text: str, task: Task) -> Conditions:
    table = parse_csv(text)
    names = [f"label:{name}" for name in task.classes]
    if list(table.columns) != [*names, *task.metadata, "images"]:
        raise ValueError(
            f"line 1: expected the columns {', '.join([*names, *task.metadata, 'images'])}"
        )
    labels = np.column_stack([parsing.labels(table, name) for name in names]).astype(np.uint8)
    counts = numbers(table, "images", 1, MOST)
    if not (counts % 1 == 0).all():
        raise ValueError("column 'images': expected whole numbers")
    counts = counts.astype(np.int64)
    if (total := int(counts.sum())) > MOST:
        raise ValueError(f"column 'images': {total:,} images, more than {MOST:,}")
    if total != task.images or tuple((labels * counts[:, None]).sum(axis=0)) != task.counts:
        raise ValueError("its numbers of images are not those of environment.json")
    rows = pd.DataFrame({name: table.get(name, "") for name in CATEGORIES}, index=table.index)
    rows["age"] = numbers(table, "age", 0, OLDEST) if "age" in table else np.nan
    for name, words in CATEGORIES.items():
        if words and not rows[name].isin([*words, ""]).all():
            raise ValueError(f"column {name!r}: expected {words[0]}, {words[1]} or nothing")
    encoded = encode(
        {name: torch.from_numpy(found) for name, found in metadata_columns(rows).items()},
        task.metadata,
        len(table),
    )
    each = torch.tensor(counts)
    return Conditions(
        torch.tensor(labels).repeat_interleave(each, dim=0),
        encoded.repeat_interleave(each, dim=0),
    )
