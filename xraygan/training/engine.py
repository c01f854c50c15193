"""A recipe brought to life: trained, evaluated, left as a run directory, and taken up again."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from xraygan.distributed.ranks import Ranks, join
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe
from xraygan.rundir import checkpoint
from xraygan.rundir import completion as ending
from xraygan.rundir.conditions import write_conditions
from xraygan.rundir.directory import RunDirectory, current_environment
from xraygan.rundir.disk_errors import disk_errors
from xraygan.rundir.image_record import data_differences, write_record
from xraygan.rundir.provenance import Resumption
from xraygan.session.session import Session
from xraygan.utils.precision import threads
from xraygan.utils.progress import Display, logging_to

from . import lengthening
from .final_evaluation import end, mark
from .starting import pinned, take_over
from .trainer import Loop

_log = logging.getLogger(__name__)


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
    done = resume and place.recipe.exists() and not ending.lacking(place.path)
    if done and not Resumption.of(place, recipe, longer=longer).lengthened:
        display.say(_complete(place))
        return place
    with join(recipe.tables.run.device) as ranks:
        check_shares(recipe, ranks.count)
        if not ranks.first:
            _follow(asked, place, ranks)
            return place
        with place.locked(), threads(recipe.tables.run.threads):
            place.check_can_start(resume=resume)  # before the data is prepared, not after
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
        differences = data_differences(place, resumed.environment, data)
        resumed.check_data(data, differences)
        resumed.check_networks(session.graph)  # until here nothing is changed
    with disk_errors(place):
        adopted = checkpoint.adopt(place.checkpoints)
    if resumed and adopted:
        resumed = resumed.at_latest()
    said = _start(session, place)
    place.create(recipe)
    with disk_errors(place), logging_to(place.log, display):
        write_record(place, data)  # before what says that these are the run's images
        if resumed:
            resumed.write(current_environment(recipe, session.device, data.summary(), ranks.count))
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
            end(session, place, loop.total, anew=bool(resumed and resumed.changed))
        finally:
            if loop.keeper:
                loop.keeper.trackers.close()
        mark(place, loop.total)


def _complete(place: RunDirectory) -> str:
    """That there is nothing left to do for a run, and which step its figures are of."""
    step = ending.evaluated_step(place.path)
    if step == ending.trained_steps(place.path):
        return f"{place.path} is complete"
    return (
        f"{place.path} is complete; its evaluation.json is of step {step}, and `xraygan evaluate "
        f"{place.path}` measures its last step again"
    )


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


def check_shares(recipe: Recipe, ranks: int) -> None:
    """Say that a batch cannot be cut into the parts that were asked for.

    Raises:
        UserError: it cannot be shared equally by that many ranks.
    """
    words = recipe.tables.run
    parts = ranks * words.accumulate
    if words.batch_size % parts:
        raise UserError(
            f"[run] batch_size: {words.batch_size} images cannot be shared equally by {parts} "
            f"parts ({ranks} --devices times [run] accumulate = {words.accumulate})"
        )
