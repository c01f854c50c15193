"""The training steps of a recipe on a pretended GPU (:mod:`pretended_gpu`)."""

from __future__ import annotations

import gc
import multiprocessing
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pretended_gpu import GPU, Watch, pretended_gpu
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing._internal.distributed.fake_pg import FakeStore

from xraygan.data.datamodule import ImageData, open_dataset
from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.data.image_store import Store
from xraygan.data.splits import task_of
from xraygan.distributed.ranks import DistributedContext
from xraygan.graph.build import assemble
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.precision import choose_precision
from xraygan.utils.progress import Display

#: images of each split; no batch of a shipped recipe is larger
COUNT = 400

#: the shares of a run after which its steps are watched: every phase of the shipped schedules
PHASES = (0.05, 0.3, 0.6, 0.98)


@dataclass(frozen=True)
class Found:
    """What steps on a pretended GPU would be waited for; see :class:`pretended_gpu.Watch`.

    Attributes:
        steps: how many were watched.
        waits: (source line, what) -> how often, in all of them.
        operations: operations on the GPU, without backward passes, in all of them.
        norms: network -> the names of its batch norms' classes, one for each.
    """

    steps: int
    waits: Counter[tuple[str, str]]
    wrong: Counter[tuple[str, str]]
    operations: Counter[str]
    norms: dict[str, list[str]]

    def describe(self) -> str:
        lines = [f"{n / self.steps:5.2f} a step  {where}: {w}" for (where, w), n in
                 (*self.waits.most_common(), *self.wrong.most_common())]  # fmt: skip
        return "\n".join(lines)


def on_a_gpu(name: str, *changes: str) -> Recipe:
    """A recipe at its own sizes, on procedural images, with random weights for published ones."""
    changes = ("data.plugin=phantom", "run.device=cuda:0", *changes)
    random = [
        f"{table}.weights=random"
        for table, choice in load(name, list(changes)).choices.items()
        if choice.options.get("weights", "random") != "random"
        and not choice.part.name.startswith("timm")
        and not table.startswith("metrics")
    ]
    return load(name, [*changes, *random])


def watch(
    recipe: Recipe, folder: Path, phases: tuple[float, ...] = PHASES, count: int = 1
) -> Found:
    """Take a first step, in which optimizers make their state, then watch one of each phase, on
    the first of several ranks if the count is not 1.

    In a process of its own, which ends without cleaning up: PyTorch does not always free fake
    tensors of a GPU without a driver, and what they leave behind would end this process.

    Raises:
        RuntimeError: a step failed; the message is the traceback.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        gc.disable()
        torch.set_num_threads(1)
        try:
            sender.send(_watch(recipe, folder, phases, count))
        except BaseException:
            sender.send(traceback.format_exc())
        finally:
            os._exit(0)
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = "the process ended early"
    os.waitpid(child, 0)
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _watch(recipe: Recipe, folder: Path, phases: tuple[float, ...], count: int) -> Found:
    with training(recipe, folder, _first_of(count)) as (trainer, seen):
        trainer.meter.update(trainer.step(0))
        seen.on = True
        for share in phases:
            step = int(share * trainer.total)
            trainer.meter.update(trainer.step(step))
            trainer._check_finite(step + 1)
        seen.on = False
        norms = {
            name: [type(m).__name__ for m in network.modules() if isinstance(m, _BatchNorm)]
            for name, network in trainer.graph.networks.items()
        }
        return Found(len(phases), seen.waits, seen.wrong, seen.operations, norms)


def _first_of(count: int) -> DistributedContext:
    """The first of several ranks, whose collectives reach nobody and give numbers of no meaning."""
    if count == 1:
        return DistributedContext()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    return DistributedContext(0, count, dist.new_group(backend="fake"))


@contextmanager
def training(
    recipe: Recipe, folder: Path, ranks: DistributedContext
) -> Iterator[tuple[Trainer, Watch]]:
    """A trainer on a pretended GPU, of random labels and metadata; no file is read."""
    with pretended_gpu() as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        autocast = choose_precision(recipe.tables.run.precision, GPU)
        data = _images(recipe)
        graph = assemble(recipe, data.task, GPU, autocast, ranks)
        session = Session(recipe, GPU, graph, lambda: data)
        # The callbacks write files after steps, and wait for the GPU.
        trainer = Trainer(session, RunDirectory(folder), Display(quiet=True), ranks)
        trainer.callbacks = None
        trainer.config = trainer.config.model_copy(
            update=dict.fromkeys(
                ("log_every", "save_every", "sample_every", "evaluate_every"), 10**9
            )
        )
        yield trainer, seen


def _images(recipe: Recipe) -> ImageData:
    task = task_of(recipe, open_dataset(recipe))
    random = np.random.default_rng(0)
    labels = np.eye(len(task.classes), dtype=np.uint8)[np.arange(COUNT) % len(task.classes)]
    if not task.exclusive:
        labels |= (random.random(labels.shape) < 0.1).astype(np.uint8)
    task = replace(task, counts=tuple(int(n) for n in labels.sum(axis=0)), images=COUNT)
    splits = {"train": _split(task, labels, random), "test": _split(task, labels, random)}
    if recipe.tables.data.unlabelled:
        splits["unlabelled"] = _split(task, labels, random)
    pixels = splits["train"].images.pixels
    store = Store(Path("none"), pixels, "", {}, [], None, [])
    return ImageData(task, splits, "", store)


def _split(task: Task, labels: np.ndarray, random: np.random.Generator) -> ImageSplit:
    size = task.image_size
    sexes, views = random.integers(0, 2, (2, COUNT)).astype(np.float32)
    return ImageSplit(
        StoredImages(torch.zeros(COUNT, size, size, dtype=torch.uint8), torch.arange(COUNT)),
        labels,
        np.array([str(i) for i in range(COUNT)]),
        [f"{i}.png" for i in range(COUNT)],
        {"age": random.uniform(20, 80, COUNT).astype(np.float32), "sex": sexes, "view": views},
    )
