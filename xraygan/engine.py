"""A recipe brought to life: trained, evaluated, left as a run directory, and taken up again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import checkpoint, lengthening
from .assemble import assemble, rehearse
from .display import Display, logging_to
from .errors import UserError
from .evaluate import Evaluation, evaluate, predictions
from .graph import TrainingGraph
from .loop import Loop
from .precision import choose_device, choose_precision, keep_freed_memory, make_deterministic
from .ranks import Ranks, join
from .recipe import Recipe, load
from .resuming import (
    Resumption,
    changes,
    classes_of,
    data_differences,
    read_environment,
    read_recipe,
)
from .rundir import RunDirectory, environment, write_json, write_table
from .selection import task_of
from .starting import pinned, take_over
from .store import ImageData, open_dataset, prepare

_log = logging.getLogger(__name__)


@dataclass
class Session:
    """A recipe brought to life: its data, its graph, and where they are."""

    recipe: Recipe
    device: torch.device
    data: ImageData
    graph: TrainingGraph

    @classmethod
    def of(cls, recipe: Recipe, display: Display, ranks: Ranks | None = None) -> Session:
        """Prepare the data and build the networks."""
        make_deterministic()
        keep_freed_memory()
        words = recipe.tables.run
        device = choose_device(words.device)
        autocast = choose_precision(words.precision, device)
        rehearse(recipe, task_of(recipe, open_dataset(recipe)))
        data = prepare(recipe, display.progress)
        return cls(recipe, device, data, assemble(recipe, data.task, device, autocast, ranks))

    def evaluation(self) -> Evaluation:
        """What metrics measure, with the networks as they are now."""
        splits = self.data.splits
        return Evaluation(self.recipe, self.graph, splits["train"], splits["test"], self.device)


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
        with place.locked():
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
    said = _start(session, place)
    place.begin(recipe)
    with place.said_of_the_disk(), logging_to(place.log, display):
        if resumed:
            resumed.write(environment(recipe, session.device, data.summary(), ranks.count))
        else:
            place.write_environment(recipe, session.device, data.summary(), ranks.count)
        ranks.wait()
        for warning in data.warnings:
            _log.warning(warning)
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
    session = Session.of(pinned(recipe, place), silent, ranks)
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
    directory: Path, overrides: Iterable[str], display: Display, which: str = checkpoint.LATEST
) -> tuple[Session, RunDirectory, int]:
    """A run's session with the networks of one of its checkpoints, and that checkpoint's step.

    Args:
        which: ``"latest"``, ``"best"``, or a step.

    Raises:
        UserError: it is no run, or has no such checkpoint whose files match their hashes.
    """
    place = RunDirectory.open(directory)
    found = checkpoint.find(place.checkpoints, which)
    session = Session.of(load(place.recipe, overrides), display)
    _check_classes(session, place)
    for line in unlike_training(session, place):
        display.say(f"warning: {line}")
    found.load_networks(session.graph)
    return session, place, found.step


def _check_classes(session: Session, place: RunDirectory) -> None:
    """Hold that the networks' outputs are called as they were when they were trained."""
    trained = classes_of(_environment(place))
    if trained and trained != session.data.task.classes:
        raise UserError(
            f"{place.path}: its networks know the classes {', '.join(trained)}, in this order, and "
            f"the data now has {', '.join(session.data.task.classes)}: leave out --set "
            "data.classes, or set it to those"
        )


def unlike_training(session: Session, place: RunDirectory) -> list[str]:
    """In what a session's data differ from the run's, in lines."""
    found = data_differences(_environment(place), session.data)
    return [f"these are not the images of the run: {line}" for line in found]


def _environment(place: RunDirectory) -> dict[str, Any]:
    """A run's ``environment.json``; empty where it cannot be read."""
    try:
        return read_environment(place)
    except UserError:
        return {}


def _check_shares(recipe: Recipe, ranks: Ranks) -> None:
    """Say that a batch cannot be cut into the parts that were asked for."""
    words = recipe.tables.run
    parts = ranks.count * words.accumulate
    if words.batch_size % parts:
        raise UserError(
            f"[run] batch_size: {words.batch_size} images cannot be shared equally by {parts} "
            f"parts ({ranks.count} --devices times [run] accumulate = {words.accumulate})"
        )


def finish(session: Session, place: RunDirectory, step: int) -> dict[str, Any]:
    """Write ``evaluation.json``, ``predictions.csv`` and the report; returns the evaluation."""
    from .report import write_report  # matplotlib takes seconds to import: only when it is needed

    evaluation = session.evaluation()
    result, resamples = evaluate(evaluation, step)
    result["protocol"]["fingerprint"] = session.data.fingerprint
    trained_on = _environment(place).get("dataset", {}).get("fingerprint")
    if trained_on not in (None, session.data.fingerprint):
        result["protocol"]["trained_on_fingerprint"] = trained_on
    if changed := changes(read_recipe(place), session.recipe):
        result["changed"] = {key: {"was": was, "now": now} for key, (was, now) in changed.items()}
    if "classifier" in session.graph.networks:
        write_table(place.predictions, predictions(evaluation))
    if len(resamples):
        write_table(place.bootstrap, resamples.round(6))
    write_json(place.evaluation, result)
    write_report(place.path)
    return result
