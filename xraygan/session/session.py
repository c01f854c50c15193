"""A recipe with its data and networks: of a run that begins, or of one that was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from xraygan.data.datamodule import ImageData, ImageSplit, open_dataset, prepare
from xraygan.data.splits import task_of
from xraygan.distributed.ranks import Ranks
from xraygan.errors import UserError
from xraygan.evaluation.evaluation import Evaluation
from xraygan.evaluation.unseen import check_unseen
from xraygan.graph.build import assemble, rehearse
from xraygan.graph.graph import MODELS, TrainingGraph
from xraygan.parts.building import from_random
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir import checkpoint
from xraygan.rundir import completion as ending
from xraygan.rundir.conditions import Conditions, read_conditions, recorded_task
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.image_record import data_differences
from xraygan.rundir.provenance import read_environment
from xraygan.utils.precision import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    make_deterministic,
)
from xraygan.utils.progress import Display


@dataclass
class Session:
    """A recipe brought to life: its graph, its data, and where they are.

    Attributes:
        place: the run directory, of a run that was restored.
        chosen_on: the split by whose figures the checkpoint was chosen, if it is the best one.
        differs: in what the images differ from those that the run was trained on, in lines; known
            when the data are prepared.
    """

    recipe: Recipe
    device: torch.device
    graph: TrainingGraph
    _prepare: Callable[[], ImageData]
    place: RunDirectory | None = None
    chosen_on: str | None = None
    differs: list[str] = field(default_factory=list)

    @cached_property
    def data(self) -> ImageData:
        """The images; those of a restored run are prepared when they are first needed.

        Raises:
            UserError: they are not there, or have other classes than the run's networks.
        """
        return self._prepare()

    @classmethod
    def of(cls, recipe: Recipe, display: Display, ranks: Ranks | None = None) -> Session:
        """Prepare the data and build the networks."""
        device, autocast = _modes(recipe)
        rehearse(recipe, task_of(recipe, open_dataset(recipe)))
        data = prepare(recipe, display.progress)
        graph = assemble(recipe, data.task, device, autocast, ranks)
        return cls(recipe, device, graph, lambda: data)

    @classmethod
    def of_run(
        cls, place: RunDirectory, recipe: Recipe, display: Display, *, measure: bool
    ) -> Session:
        """Build the networks of a run, of which a checkpoint has the weights.

        The data are prepared now if the run has not recorded what its networks were built for.
        """
        device, autocast = _modes(recipe)
        task = recorded_task(place, recipe)
        data = prepare(recipe, display.progress, training=False) if task is None else None
        task = task or cast(ImageData, data).task
        differs: list[str] = []

        def prepared() -> ImageData:
            found = data or prepare(recipe, display.progress, training=False)
            if found.task.classes != task.classes:
                raise UserError(
                    f"[data] classes: the data have {', '.join(found.task.classes)}, and the "
                    f"networks of {place.path} were trained for {', '.join(task.classes)}"
                )
            check_unseen(place, recipe, found)
            differs.extend(data_differences(place, read_environment(place), found))
            for line in differs:
                display.say(f"warning: these are not the images of the run: {line}")
            return found

        graph = assemble(recipe, task, device, autocast, weights=False, extractors=measure)
        return cls(recipe, device, graph, prepared, place, differs=differs)

    def evaluation(self, split: str | None = None) -> Evaluation:
        """What metrics measure, with the networks as they are now.

        Args:
            split: ``"test"`` or ``"val"``; the recipe's ``[evaluation] split`` by default.
        """
        measured = split or self.recipe.tables.evaluation.split

        def images(name: str) -> Callable[[], ImageSplit]:
            return lambda: self.data.splits[name]

        return Evaluation(
            self.recipe, self.graph, images("train"), images(measured), self.device, measured
        )

    @property
    def watched(self) -> str:
        """The split that is measured while the run trains: the validation images if it has any."""
        return "val" if "val" in self.data.splits else "test"

    def conditions(self) -> Conditions:
        """The labels and metadata that images are generated from, unless others are asked for.

        Raises:
            UserError: the run has recorded none, and its data are not there.
        """
        if self.place is not None:
            with suppress(FileNotFoundError):
                return read_conditions(self.place, self.graph.task)
        try:
            train = self.data.splits["train"]
        except UserError as error:
            if self.place is None:
                raise
            raise UserError(
                f"{self.place.path}: an earlier version made this run and has not recorded the "
                f"labels and metadata to generate from; its training data are needed: {error}"
            ) from None
        labels = torch.from_numpy(train.label_matrix)
        return Conditions(labels, train.encoded(self.graph.task.metadata))


def restore(
    directory: Path,
    overrides: Iterable[str],
    display: Display,
    which: str = checkpoint.LATEST,
    *,
    measure: bool = True,
) -> tuple[Session, RunDirectory, int]:
    """A run's session with the networks of one of its checkpoints, and that checkpoint's step.

    Args:
        which: ``"latest"``, ``"best"``, or a step.
        measure: whether metrics will be computed. Otherwise the run directory is enough: files
            that the recipe names need not be there, and the networks that scores read are left out.

    Raises:
        UserError: it is no run, has no such checkpoint whose files match their hashes, or was
            trained with other networks or classes than the overrides ask for.
    """
    place = RunDirectory.open(directory)
    found = checkpoint.find(place.checkpoints, which)
    recipe = load(place.recipe, overrides := tuple(overrides), files=measure)
    place.check_validation_share(recipe)
    if overrides:
        _check_trained(place, load(place.recipe, files=False), recipe)
    session = Session.of_run(place, recipe, display, measure=measure)
    found.load_networks(session.graph)
    if (left := ending.untrained(place.path)) and which == checkpoint.LATEST:
        display.say(
            f"warning: {place.path} is not finished, {left}; this is step {found.step}, and "
            "`xraygan run` with --resume goes on"
        )
    if which == checkpoint.BEST:
        session.chosen_on = place.best_split(found.step)
    return session, place, found.step


def _check_trained(place: RunDirectory, before: Recipe, now: Recipe) -> None:
    """Refuse to change what a run's networks were built from.

    Raises:
        UserError: naming each key that would.
    """
    words = [recipe.tables.data for recipe in (before, now)]
    pairs = {
        f"data.{key}": tuple(getattr(data, key) for data in words)
        for key in ("classes", "image_size", "label_policy", "metadata")
    }
    for name in MODELS:
        if name in before.choices and name in now.choices:
            first, second = (from_random(recipe.choices[name]) for recipe in (before, now))
            pairs[f"{name}.plugin"] = (first.part.name, second.part.name)
            for key in first.options.keys() & second.options.keys():
                pairs[f"{name}.{key}"] = (first.options[key], second.options[key])
    changed = [f"\n  {key}: {a} there, {b} now" for key, (a, b) in pairs.items() if a != b]
    if changed:
        raise UserError(
            f"{place.path}: its networks are trained, and these keys cannot be changed any more:"
            f"{''.join(changed)}\nLeave them out, or train another run with them"
        )


def _modes(recipe: Recipe) -> tuple[torch.device, Callable[[], AbstractContextManager]]:
    """Set up this process as the recipe asks for: its device, and what networks run in."""
    make_deterministic()
    keep_freed_memory()
    words = recipe.tables.run
    if words.threads:
        torch.set_num_threads(words.threads)
    device = choose_device(words.device)
    return device, choose_precision(words.precision, device)
