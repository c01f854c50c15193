"""A recipe with its data and networks: of a new run, or restored from a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from xraygan.data.datamodule import ImageData, open_dataset, prepare
from xraygan.data.image_splits import ImageSplit
from xraygan.data.splits import task_of
from xraygan.distributed.ranks import DistributedContext
from xraygan.errors import UserError
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.evaluation.leakage import check_unseen
from xraygan.graph.build import assemble, dry_build
from xraygan.graph.graph import MODELS, TrainingGraph
from xraygan.parts.building import from_random
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir import checkpoint, completion
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
    """A recipe with its training graph and its data, on a device.

    Attributes:
        run_dir: the run directory, of a run that was restored.
        chosen_on: the split by whose figures the checkpoint was chosen, if it is the best one.
        differs: lines that say how the images differ from those that the run was trained on; filled
            when the data are prepared.
    """

    recipe: Recipe
    device: torch.device
    graph: TrainingGraph
    _prepare: Callable[[], ImageData]
    run_dir: RunDirectory | None = None
    chosen_on: str | None = None
    differs: list[str] = field(default_factory=list)

    @cached_property
    def data(self) -> ImageData:
        """The images; those of a restored run are prepared when they are first used.

        Raises:
            UserError: they cannot be found, or have other classes than the run's networks.
        """
        return self._prepare()

    @classmethod
    def of(
        cls, recipe: Recipe, display: Display, ranks: DistributedContext | None = None
    ) -> Session:
        """Prepare the data and build the networks."""
        device, autocast = modes(recipe)
        dry_build(recipe, task_of(recipe, open_dataset(recipe)))
        data = prepare(recipe, display.progress)
        graph = assemble(recipe, data.task, device, autocast, ranks)
        return cls(recipe, device, graph, lambda: data)

    @classmethod
    def of_run(
        cls, run_dir: RunDirectory, recipe: Recipe, display: Display, *, measure: bool
    ) -> Session:
        """Build the networks of a run, for the weights of one of its checkpoints.

        The data are prepared now if the run has not recorded its task (its classes, for example),
        for which networks are built; otherwise when they are first used.

        Args:
            measure: whether metrics will be computed, so that extractors are needed.
        """
        device, autocast = modes(recipe)
        task = recorded_task(run_dir, recipe)
        data = prepare(recipe, display.progress, training=False) if task is None else None
        task = task or cast(ImageData, data).task
        differs: list[str] = []

        def prepare_checked() -> ImageData:
            images = data or prepare(recipe, display.progress, training=False)
            if images.task.classes != task.classes:
                raise UserError(
                    f"[data] classes: the data have {', '.join(images.task.classes)}, and the "
                    f"networks of {run_dir.path} were trained for {', '.join(task.classes)}"
                )
            check_unseen(run_dir, recipe, images)
            differs.extend(data_differences(run_dir, read_environment(run_dir), images))
            for line in differs:
                display.say(f"warning: these are not the images of the run: {line}")
            return images

        graph = assemble(recipe, task, device, autocast, weights=False, extractors=measure)
        return cls(recipe, device, graph, prepare_checked, run_dir, differs=differs)

    def evaluation(self, split: str | None = None) -> RunEvaluation:
        """The :class:`Evaluation` that metrics read, with the networks as they are now.

        Args:
            split: ``"test"`` or ``"val"``; the recipe's ``[evaluation] split`` by default.
        """
        measured = split or self.recipe.tables.evaluation.split

        def images(name: str) -> Callable[[], ImageSplit]:
            return lambda: self.data.splits[name]

        return RunEvaluation(
            self.recipe, self.graph, images("train"), images(measured), self.device, measured,
            lambda: self.data.splits.get("val"),
        )  # fmt: skip

    @property
    def watched(self) -> str:
        """The split that is measured during training: validation images if there are any, else
        test images."""
        return "val" if "val" in self.data.splits else "test"

    def conditions(self) -> Conditions:
        """The training images' labels and metadata, from which images are generated by default.

        Raises:
            UserError: the run has not recorded them, and its data cannot be found.
        """
        if self.run_dir is not None:
            with suppress(FileNotFoundError):
                return read_conditions(self.run_dir, self.graph.task)
        try:
            train = self.data.splits["train"]
        except UserError as error:
            if self.run_dir is None:
                raise
            raise UserError(
                f"{self.run_dir.path}: an earlier version made this run and did not record the "
                f"labels and metadata to generate from; its training data are needed: {error}"
            ) from None
        labels = torch.from_numpy(train.label_matrix)
        return Conditions(labels, train.encoded(self.graph.task.metadata))


def restore_session(
    directory: Path,
    overrides: Iterable[str],
    display: Display,
    checkpoint_name: str = checkpoint.LATEST,
    *,
    measure: bool = True,
) -> tuple[Session, RunDirectory, int]:
    """Restore a run's session with the networks of one of its checkpoints.

    Args:
        overrides: ``"table.key=value"`` each, as ``--set`` on the command line.
        checkpoint_name: ``"latest"``, ``"best"``, or a step.
        measure: whether metrics will be computed. If not, the run directory is enough: files that
            the recipe names need not exist, and the networks that scores read are left out.

    Returns:
        The session, the run directory, and the checkpoint's step.

    Raises:
        UserError: the directory is no run, has no such checkpoint whose files match their hashes,
            or the overrides ask for other networks or classes than it was trained with.
    """
    run_dir = RunDirectory.open(directory)
    saved = checkpoint.find(run_dir.checkpoints, checkpoint_name)
    recipe = load(run_dir.recipe, overrides := tuple(overrides), files=measure)
    run_dir.check_validation_share(recipe)
    if overrides:
        _check_same_networks(run_dir, load(run_dir.recipe, files=False), recipe)
    session = Session.of_run(run_dir, recipe, display, measure=measure)
    saved.load_networks(session.graph)
    if (left := completion.training_left(run_dir.path)) and checkpoint_name == checkpoint.LATEST:
        display.say(
            f"warning: {run_dir.path} is not finished, {left}; this is step {saved.step}. To "
            "continue the run, use `xraygan run` with --resume"
        )
    if checkpoint_name == checkpoint.BEST:
        session.chosen_on = run_dir.best_split(saved.step)
    return session, run_dir, saved.step


def _check_same_networks(run_dir: RunDirectory, before: Recipe, now: Recipe) -> None:
    """Check that overrides change no key on which the networks of a trained run depend.

    Raises:
        UserError: it names each such key.
    """
    config = [recipe.tables.data for recipe in (before, now)]
    pairs = {
        f"data.{key}": tuple(getattr(data, key) for data in config)
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
            f"{run_dir.path}: its networks are trained, so these keys can no longer be changed:"
            f"{''.join(changed)}\nLeave them out, or train another run with them"
        )


def modes(recipe: Recipe) -> tuple[torch.device, Callable[[], AbstractContextManager]]:
    """Configure PyTorch as ``[run]`` says; returns the device and the mixed-precision context."""
    make_deterministic()
    keep_freed_memory()
    config = recipe.tables.run
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    return device, choose_precision(config.precision, device)
