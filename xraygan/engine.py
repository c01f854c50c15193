"""A recipe brought to life: trained, evaluated, left as a run directory, and taken up again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
from .rundir import RunDirectory, write_json, write_table
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
    def of(
        cls,
        recipe: Recipe,
        display: Display,
        ranks: Ranks | None = None,
        *,
        training: bool = True,
    ) -> Session:
        """Prepare the data and build the networks.

        Args:
            training: see :func:`xraygan.store.prepare`.
        """
        make_deterministic()
        keep_freed_memory()
        words = recipe.tables.run
        device = choose_device(words.device)
        autocast = choose_precision(words.precision, device)
        rehearse(recipe, task_of(recipe, open_dataset(recipe)))
        data = prepare(recipe, display.progress, training=training)
        return cls(recipe, device, data, assemble(recipe, data.task, device, autocast, ranks))

    def evaluation(self, split: str | None = None) -> Evaluation:
        """What metrics measure, with the networks as they are now.

        Args:
            split: ``"test"`` or ``"val"``; the recipe's ``[evaluation] split`` by default.
        """
        split, splits = split or self.recipe.tables.evaluation.split, self.data.splits
        train, measured = splits["train"], splits[split]
        return Evaluation(self.recipe, self.graph, train, measured, self.device, split)

    @property
    def watched(self) -> str:
        """The split that is measured while the run trains: the validation images if it has any."""
        return "val" if "val" in self.data.splits else "test"


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
                for reason, count in session.data.left_out.items():
                    _log.info("left out: %s: %d", reason, count)
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
    recipe = load(place.recipe, overrides)
    place.check_validation(recipe)
    session = Session.of(recipe, display, training=False)
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
    own = evaluation.split == place.split
    files = place if own else place.of_split(evaluation.split)
    if "classifier" in session.graph.networks:
        write_table(files.predictions, predictions(evaluation))
    if len(resamples):
        write_table(files.bootstrap, resamples.round(6))
    write_json(files.evaluation, result)
    if own:
        write_report(place.path)
    return files.evaluation
