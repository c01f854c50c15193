"""The labels and metadata that generators are conditioned on, kept in ``conditions.csv``.

With them a run's networks can be used without its training data.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xraygan.data.image_splits import ImageSplit
from xraygan.data.metadata import CATEGORIES, encode, metadata_columns
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.utils.csv_cells import numbers, parse_csv, write_table

from . import file_readers
from .directory import RunDirectory
from .provenance import read_environment

#: highest age in years: some data sets hold ages in months too
HIGHEST_AGE = 2000
#: most training images: each becomes a row in memory
MOST_IMAGES = 10_000_000


class Conditions(NamedTuple):
    """The labels and metadata of each training image, in an order that does not identify images.

    Attributes:
        labels: ``(L, K)`` uint8.
        metadata: ``(L, 2 M)`` float32, encoded.
    """

    labels: Tensor
    metadata: Tensor


def recorded_task(run_dir: RunDirectory, recipe: Recipe) -> Task | None:
    """The task that a run's networks were built for, from its ``environment.json``.

    Returns:
        None where that file is missing, damaged, or does not fit the recipe.
    """
    dataset = read_environment(run_dir).get("dataset", {})
    try:
        counts, images = dataset["classes"]["train"], dataset["images"]["train"]
    except KeyError:
        return None
    data = recipe.tables.data
    if len(counts) < 1 or (data.classes != "all" and list(counts) != data.classes):
        return None
    exclusive = data.label_policy == "single" or recipe.choices["data"].part.cls.exclusive  # type: ignore[attr-defined]
    return Task(
        data.image_size,
        tuple(counts),
        exclusive,
        tuple(counts.values()),
        images,
        tuple(data.metadata),
    )


def write_conditions(run_dir: RunDirectory, train: ImageSplit, graph: TrainingGraph) -> None:
    """Write ``conditions.csv``: each combination of labels and metadata, and how many images have
    it, in sorted order.

    It names no patients or files and does not keep the order of the images. It is written once, and
    only for generators that need it: classes that exclude each other are drawn uniformly.

    Raises:
        OSError: the file cannot be written.
    """
    task, generator = graph.task, graph.networks.get("generator")
    drawn = generator is not None and generator.conditional and not task.exclusive
    if generator is None or not (drawn or task.metadata) or run_dir.conditions.exists():
        return
    columns: dict[str, np.ndarray] = {
        f"label:{name}": train.label_matrix[:, i] for i, name in enumerate(task.classes)
    }
    columns |= {name: train.metadata[name].astype(np.float64) for name in task.metadata}
    sizes = pd.DataFrame(columns).groupby(list(columns), dropna=False).size()
    table = sizes.reset_index(name="images")
    for name in task.metadata:
        if (values := CATEGORIES[name]) is not None:
            table[name] = table[name].map({1.0: values[0], 0.0: values[1]})
    write_table(run_dir.conditions, table)


def read_conditions(run_dir: RunDirectory, task: Task) -> Conditions:
    """The content of ``conditions.csv``, a row a training image.

    Raises:
        FileNotFoundError: the run has no such file.
        UserError: it cannot be read, or does not match the training images of the task.
    """
    remedy = (
        "the file is damaged: remove it, and the labels and metadata to generate from are read "
        "from the training data"
    )
    return file_readers.needed(run_dir.conditions, partial(_parse, task=task), remedy)


def _parse(text: str, task: Task) -> Conditions:
    table = parse_csv(text)
    names = [f"label:{name}" for name in task.classes]
    if list(table.columns) != [*names, *task.metadata, "images"]:
        raise ValueError(
            f"line 1: expected the columns {', '.join([*names, *task.metadata, 'images'])}"
        )
    labels = np.column_stack([file_readers.label_column(table, name) for name in names]).astype(
        np.uint8
    )
    counts = numbers(table, "images", 1, MOST_IMAGES)
    if not (counts % 1 == 0).all():
        raise ValueError("column 'images': expected whole numbers")
    counts = counts.astype(np.int64)
    if (total := int(counts.sum())) > MOST_IMAGES:
        raise ValueError(f"column 'images': {total:,} images; at most {MOST_IMAGES:,} are allowed")
    if total != task.images or tuple((labels * counts[:, None]).sum(axis=0)) != task.counts:
        raise ValueError("its numbers of images differ from those of environment.json")
    rows = pd.DataFrame({name: table.get(name, "") for name in CATEGORIES}, index=table.index)
    rows["age"] = numbers(table, "age", 0, HIGHEST_AGE) if "age" in table else np.nan
    for name, values in CATEGORIES.items():
        if values and not rows[name].isin([*values, ""]).all():
            raise ValueError(f"column {name!r}: expected {values[0]}, {values[1]} or nothing")
    encoded = encode(
        {name: torch.from_numpy(column) for name, column in metadata_columns(rows).items()},
        task.metadata,
        len(table),
    )
    repeats = torch.tensor(counts)
    return Conditions(
        torch.tensor(labels).repeat_interleave(repeats, dim=0),
        encoded.repeat_interleave(repeats, dim=0),
    )
