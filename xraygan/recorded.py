"""What a run directory keeps of its training data, so that its networks need no data to be used."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .errors import UserError
from .graph import TrainingGraph
from .interfaces import Task
from .metadata import WORDS, encode, numbers
from .reading import read_text
from .recipe import Recipe
from .resuming import known_environment
from .rundir import RunDirectory, write_table
from .store import ImageSplit

#: bytes; the conditions of all of ChestX-ray14 take about 4 MB
LARGEST = 1 << 26
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
    dataset = known_environment(place).get("dataset", {})
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
        if (words := WORDS[name]) is not None:
            found[name] = found[name].map({1.0: words[0], 0.0: words[1]})
    write_table(place.conditions, found)


def read_conditions(place: RunDirectory, task: Task) -> Conditions:
    """The content of ``conditions.csv``, a row a training image.

    Raises:
        FileNotFoundError: the run has none.
        UserError: it cannot be read, or is not of these training images.
    """
    try:
        return _parse(read_text(place.conditions, LARGEST), task)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, OverflowError) as error:
        raise UserError(
            f"{place.conditions}: damaged ({error}). Remove it, and the labels and metadata to "
            "generate from are read from the training data"
        ) from None


def _parse(text: str, task: Task) -> Conditions:
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    names = [f"label:{name}" for name in task.classes]
    if list(table.columns) != [*names, *task.metadata, "images"]:
        raise ValueError(f"expected the columns {', '.join([*names, *task.metadata, 'images'])}")
    if not table[names].isin(["0", "1"]).all(axis=None):
        raise ValueError("a label is neither 0 nor 1")
    counts = table["images"].astype(np.int64).to_numpy()
    if (counts < 1).any() or not 0 < (total := int(counts.sum(dtype=object))) <= MOST:
        raise ValueError("a number of images is out of range")
    labels = table[names].to_numpy(dtype=np.uint8)
    if total != task.images or tuple((labels * counts[:, None]).sum(axis=0)) != task.counts:
        raise ValueError("its numbers of images are not those of environment.json")
    values = {name: table.get(name, "") for name in WORDS}
    rows = pd.DataFrame(values, index=table.index)
    rows["age"] = rows["age"].replace("", "nan").astype(np.float64)
    encoded = encode(
        {name: torch.from_numpy(found) for name, found in numbers(rows).items()},
        task.metadata,
        len(table),
    )
    each = torch.tensor(counts)
    return Conditions(
        torch.tensor(labels).repeat_interleave(each, dim=0),
        encoded.repeat_interleave(each, dim=0),
    )
