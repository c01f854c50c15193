"""A recipe brought to life: trained, evaluated, left as a run directory, and taken up again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import checkpoint
from .assemble import assemble, rehearse
from .display import Display, logging_to
from .errors import UserError
from .evaluate import Evaluation, evaluate, predictions
from .graph import TrainingGraph
from .loop import Loop
from .precision import choose_device, choose_precision, keep_freed_memory, make_deterministic
from .ranks import Ranks, join
from .recipe import Recipe, load
from .rundir import RunDirectory, changed_keys, write_json, write_table
from .selection import task_of
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
    display: Display | None = None,
) -> RunDirectory:
    """Train a recipe, evaluate it, and leave a run directory.

    Args:
        directory: ``runs/NAME`` by default.
        resume: continue the run in the directory, if there is one.

    Returns:
        The run directory; a finished run that is resumed is returned as it is.

    Raises:
        UserError: the recipe, the data or a plugin is at fault.
        Interrupted: SIGINT or SIGTERM came; the last step is saved.
        RankLost: another of the run's processes ended; the message says what is saved.
    """
    display = display or Display()
    place = RunDirectory(directory or Path("runs") / recipe.name)
    if resume and place.evaluation.exists():
        place.check(recipe, resume=True)
        display.say(f"{place.path} is complete")
        return place
    with join(recipe.tables.run.device) as ranks:
        _check_shares(recipe, ranks)
        if not ranks.first:
            _follow(recipe, place, ranks)
            return place
        with place.locked():
            place.check(recipe, resume=resume)  # before the data is prepared, not after
            session = Session.of(recipe, display, ranks)
            place.begin(recipe)
            ranks.wait()
            with place.said_of_the_disk(), logging_to(place.log, display):
                place.write_environment(recipe, session.device, session.data.summary(), ranks.count)
                for warning in session.data.warnings:
                    _log.warning(warning)
                loop = Loop(session, place, display, ranks)
                try:
                    loop.run()
                    finish(session, place, loop.total)
                finally:
                    if loop.keeper:
                        loop.keeper.trackers.close()
    return place


def _follow(recipe: Recipe, place: RunDirectory, ranks: Ranks) -> None:
    """The run of every rank but the first: it trains along and writes nothing."""
    logging.getLogger("xraygan").addHandler(logging.NullHandler())
    silent = Display(Console(quiet=True))
    ranks.wait()  # the first prepares the data
    Loop(Session.of(recipe, silent, ranks), place, silent, ranks).run()


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
    found.load_networks(session.graph)
    return session, place, found.step


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
    changed = changed_keys(place.resolved(), session.recipe.resolved())
    changed.pop("data.root", None)  # whether it holds the same images, the fingerprint says
    if changed:  # by --set: the run's own recipe does not tell how this was measured
        result["protocol"]["changed"] = {key: now for key, (_, now) in changed.items()}
    if "classifier" in session.graph.networks:
        write_table(place.predictions, predictions(evaluation))
    place.bootstrap.unlink(missing_ok=True)  # an earlier evaluation's are of other figures
    if len(resamples):
        write_table(place.bootstrap, resamples.round(6))
    write_json(place.evaluation, result)
    write_report(place.path)
    return result
