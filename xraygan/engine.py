"""A recipe brought to life: trained, evaluated, left as a run directory, and taken up again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from rich.console import Console

from . import checkpoint, lengthening
from .assemble import assemble, from_random, rehearse
from .cells import as_csv
from .display import Display, logging_to
from .errors import UserError
from .evaluate import Evaluation, evaluate, predictions
from .graph import MODELS, TrainingGraph
from .loop import Loop
from .precision import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    make_deterministic,
    threads,
)
from .ranks import Ranks, join
from .recipe import Recipe, load
from .recorded import Conditions, read_conditions, recorded_task, write_conditions
from .resuming import (
    Resumption,
    data_differences,
    material_changes,
    read_environment,
    trained_on,
)
from .rundir import RunDirectory, as_json, environment
from .selection import task_of
from .starting import pinned, take_over
from .store import ImageData, ImageSplit, open_dataset, prepare
from .unseen import check_unseen
from .writing import write_together

_log = logging.getLogger(__name__)


@dataclass
class Session:
    """A recipe brought to life: its graph, its data, and where they are.

    Attributes:
        place: the run directory, of a run that was restored.
        chosen_on: the split by whose figures the checkpoint was chosen, if it is the best one.
    """

    recipe: Recipe
    device: torch.device
    graph: TrainingGraph
    _prepare: Callable[[], ImageData]
    place: RunDirectory | None = None
    chosen_on: str | None = None

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

        def prepared() -> ImageData:
            found = data or prepare(recipe, display.progress, training=False)
            if found.task.classes != task.classes:
                raise UserError(
                    f"[data] classes: the data have {', '.join(found.task.classes)}, and the "
                    f"networks of {place.path} were trained for {', '.join(task.classes)}"
                )
            check_unseen(place, recipe, found)
            for line in data_differences(read_environment(place), found):
                display.say(f"warning: these are not the images of the run: {line}")
            return found

        graph = assemble(recipe, task, device, autocast, weights=False, extractors=measure)
        return cls(recipe, device, graph, prepared, place)

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


def run(
    recipe: Recipe,
    directory: Path | None = None,
    *,
    resume: bool = False,
    longer: bool = False,
    display: Display | None = None,
) -> RunDirectory:
    """Train a recipe, evaluate it, and leave a run directory.

    Args:
        directory: ``runs/NAME`` by default.
        resume: continue the run in the directory, if there is one.
        longer: the run that is continued may get another number of steps.

    Returns:
        The run directory; a finished run that is resumed is returned as it is, unless its recipe
        now has more steps.

    Raises:
        UserError: the recipe, the data or a plugin is at fault.
        Interrupted: SIGINT or SIGTERM came; the last step is saved.
        RankLost: another of the run's processes ended; the message says what is saved.
    """
    display = display or Display()
    place = RunDirectory(directory or Path("runs") / recipe.name)
    asked, recipe = recipe, pinned(recipe, place)
    if resume and place.evaluation.exists():
        place.check(resume=True)
        if not Resumption.of(place, recipe, longer=longer).lengthened:
            display.say(f"{place.path} is complete")
            return place
    with join(recipe.tables.run.device) as ranks:
        _check_shares(recipe, ranks)
        if not ranks.first:
            _follow(asked, place, ranks)
            return place
        with place.locked(), threads(recipe.tables.run.threads):
            place.check(resume=resume)  # before the data is prepared, not after
            resumed = Resumption.of(place, recipe, longer=longer) if place.recipe.exists() else None
            session = Session.of(recipe, display, ranks)
            _lead(session, place, resumed, display, ranks)
    return place


def _lead(
    session: Session,
    place: RunDirectory,
    resumed: Resumption | None,
    display: Display,
    ranks: Ranks,
) -> None:
    """The run of the first rank, which writes the run directory."""
    recipe, data = session.recipe, session.data
    if resumed:
        resumed.check_data(data)
        resumed.check_networks(session.graph)  # until here nothing is changed
    with place.said_of_the_disk():
        adopted = checkpoint.adopt(place.checkpoints)
    if resumed and adopted:
        resumed = resumed.again()
    said = _start(session, place)
    place.begin(recipe)
    with place.said_of_the_disk(), logging_to(place.log, display):
        if resumed:
            resumed.write(environment(recipe, session.device, data.summary(), ranks.count))
        else:
            place.write_environment(recipe, session.device, data.summary(), ranks.count)
        write_conditions(place, data.splits["train"], session.graph)
        ranks.wait()
        _log.info("images: %s", data.store.folder)
        for warning in data.warnings:
            _log.warning(warning)
        for reason, count in data.left_out.items():
            _log.info("left out: %s: %d", reason, count)
        for line in said:
            _log.info(line)
        if resumed and resumed.lengthened:
            was, now = resumed.totals(len(data.splits["train"]))
            trained = session.graph.optimizers
            for line in lengthening.account(recipe, trained, was, now, resumed.step):
                _log.info(line)
                display.say(line)
        loop = Loop(session, place, display, ranks)
        try:
            loop.run()
            finish(session, place, loop.total)
        finally:
            if loop.keeper:
                loop.keeper.trackers.close()


def _follow(recipe: Recipe, place: RunDirectory, ranks: Ranks) -> None:
    """The run of every rank but the first: it trains along and writes nothing."""
    logging.getLogger("xraygan").addHandler(logging.NullHandler())
    silent = Display(Console(quiet=True))
    ranks.wait()  # the first prepares the data, and writes down what the run starts from
    recipe = pinned(recipe, place)
    with threads(recipe.tables.run.threads):
        session = Session.of(recipe, silent, ranks)
        _start(session, place)
        Loop(session, place, silent, ranks).run()


def _start(session: Session, place: RunDirectory) -> list[str]:
    """Start from another run's networks where the recipe says so and the run has none of its own.

    Returns:
        What was taken, in lines.
    """
    if session.recipe.tables.start is None or checkpoint.latest(place.checkpoints) is not None:
        return []
    return take_over(session.recipe, session.graph)


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
    place.check_validation(recipe)
    if overrides:
        _check_trained(place, load(place.recipe, files=False), recipe)
    session = Session.of_run(place, recipe, display, measure=measure)
    found.load_networks(session.graph)
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


def _check_shares(recipe: Recipe, ranks: Ranks) -> None:
    """Say that a batch cannot be cut into the parts that were asked for."""
    words = recipe.tables.run
    parts = ranks.count * words.accumulate
    if words.batch_size % parts:
        raise UserError(
            f"[run] batch_size: {words.batch_size} images cannot be shared equally by {parts} "
            f"parts ({ranks.count} --devices times [run] accumulate = {words.accumulate})"
        )


def finish(session: Session, place: RunDirectory, step: int) -> Path:
    """Measure the split that the recipe names and write its figures and predictions.

    The files are ``evaluation.json``, ``predictions.csv`` and ``bootstrap.csv``, and the report is
    written anew. If the run was trained to be measured on another split, these are left as they
    are, and the split's files are written beside: ``evaluation-val.json`` and so on.

    Returns:
        The evaluation's file.
    """
    from .report import write_report  # matplotlib takes seconds to import: only when it is needed

    evaluation = session.evaluation()
    result, resamples = evaluate(evaluation, step)
    result["protocol"]["fingerprint"] = session.data.fingerprint
    result["protocol"]["images_fingerprint"] = evaluation.test.fingerprint()
    trained = trained_on(place)
    if trained not in (None, session.data.fingerprint):
        result["protocol"]["trained_on_fingerprint"] = trained
    if session.chosen_on:
        result["protocol"]["chosen_on"] = session.chosen_on
    changed = material_changes(place, session.recipe)
    changed.pop("data.root", None)  # whether it holds the same images, the fingerprint says
    if changed:  # by --set: the run's own recipe does not tell how this was measured
        result["protocol"]["changed"] = {key: now for key, (_, now) in changed.items()}
    own = evaluation.split == place.split
    files = place if own else place.of_split(evaluation.split)
    written = {}
    if "classifier" in session.graph.networks:
        written[files.predictions] = as_csv(predictions(evaluation))
    if len(resamples):
        written[files.bootstrap] = as_csv(resamples.round(6))
    written[files.evaluation] = as_json(result)
    write_together({path: text.encode() for path, text in written.items()})
    if not len(resamples):
        files.bootstrap.unlink(missing_ok=True)  # an earlier evaluation's are of other figures
    if own:
        write_report(place.path)
    return files.evaluation
