"""A run from start to report: train a recipe, evaluate it, write its run directory, resume it."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from xraygan.distributed.ranks import DistributedContext, join_process_group
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe
from xraygan.rundir import checkpoint, completion
from xraygan.rundir.conditions import write_conditions
from xraygan.rundir.directory import RunDirectory, current_environment
from xraygan.rundir.disk_errors import disk_errors
from xraygan.rundir.image_record import data_differences, write_record
from xraygan.rundir.provenance import Resumption
from xraygan.session.session import Session
from xraygan.utils.precision import threads
from xraygan.utils.progress import Display, logging_to

from . import longer_runs
from .final_evaluation import finalize, mark_finished
from .trainer import Trainer
from .warm_start import load_start_networks, pin_start

_log = logging.getLogger(__name__)


def run(
    recipe: Recipe,
    directory: Path | None = None,
    *,
    resume: bool = False,
    longer: bool = False,
    display: Display | None = None,
) -> RunDirectory:
    """Train a recipe, evaluate it, and write a run directory.

    Resuming is the same path as starting: the data and the networks are built from the recipe, the
    run directory is compared with them before anything is changed, and the training loop starts
    from the newest checkpoint.

    Args:
        directory: ``runs/NAME`` by default.
        resume: continue the run in the directory, if there is one.
        longer: the run that is continued may get another number of steps.

    Returns:
        The run directory; a finished run that is resumed is returned unchanged, unless its recipe
        now has more steps.

    Raises:
        UserError: the recipe, the data or a plugin is at fault.
        Interrupted: SIGINT or SIGTERM came; the last step is saved.
        RankFailed: another of the run's processes ended; the message names the step that is saved.
    """
    display = display or Display()
    run_dir = RunDirectory(directory or Path("runs") / recipe.name)
    unpinned, recipe = recipe, pin_start(recipe, run_dir)
    done = resume and run_dir.recipe.exists() and not completion.lacking(run_dir.path)
    if done and not Resumption.of(run_dir, recipe, longer=longer).lengthened:
        display.say(_describe_complete(run_dir))
        return run_dir
    with join_process_group(recipe.tables.run.device) as ranks:
        check_batch_size(recipe, ranks.count)
        if not ranks.first:
            _run_other_rank(unpinned, run_dir, ranks)
            return run_dir
        with run_dir.locked(), threads(recipe.tables.run.threads):
            run_dir.check_can_start(resume=resume)  # before the data is prepared, not after
            resumed = (
                Resumption.of(run_dir, recipe, longer=longer) if run_dir.recipe.exists() else None
            )
            session = Session.of(recipe, display, ranks)
            _run_first_rank(session, run_dir, resumed, display, ranks)
    return run_dir


def _run_first_rank(
    session: Session,
    run_dir: RunDirectory,
    resumed: Resumption | None,
    display: Display,
    ranks: DistributedContext,
) -> None:
    """The run of the first rank, which writes the run directory."""
    recipe, data = session.recipe, session.data
    if resumed:
        differences = data_differences(run_dir, resumed.environment, data)
        resumed.check_data(data, differences)
        resumed.check_networks(session.graph)  # up to here the run directory is unchanged
    with disk_errors(run_dir):
        adopted = checkpoint.adopt(run_dir.checkpoints)
    if resumed and adopted:
        resumed = resumed.at_latest()
    start_lines = _start_from_other_run(session, run_dir)
    run_dir.create(recipe)
    with disk_errors(run_dir), logging_to(run_dir.log, display):
        write_record(run_dir, data)  # before environment.json, which names these images
        if resumed:
            resumed.write(current_environment(recipe, session.device, data.summary(), ranks.count))
        else:
            run_dir.write_environment(recipe, session.device, data.summary(), ranks.count)
        write_conditions(run_dir, data.splits["train"], session.graph)
        ranks.wait()
        _log.info("images: %s", data.store.folder)
        for warning in data.warnings:
            _log.warning(warning)
        for reason, count in data.left_out.items():
            _log.info("left out: %s: %d", reason, count)
        for line in start_lines:
            _log.info(line)
        if resumed and resumed.lengthened:
            before, after = resumed.totals(len(data.splits["train"]))
            trained = session.graph.optimizers
            for line in longer_runs.describe_lengthening(
                recipe, trained, before, after, resumed.step
            ):
                _log.info(line)
                display.say(line)
        loop = Trainer(session, run_dir, display, ranks)
        try:
            loop.run()
            finalize(session, run_dir, loop.total, again=bool(resumed and resumed.changed))
        finally:
            if loop.callbacks:
                loop.callbacks.trackers.close()
        mark_finished(run_dir, loop.total)


def _describe_complete(run_dir: RunDirectory) -> str:
    """The message for a run that needs no further work, with the step that was evaluated."""
    step = completion.evaluated_step(run_dir.path)
    if step == completion.trained_steps(run_dir.path):
        return f"{run_dir.path} is complete"
    return (
        f"{run_dir.path} is complete; its evaluation.json was measured at step {step}, and "
        f"`xraygan evaluate {run_dir.path}` measures its last step again"
    )


def _run_other_rank(recipe: Recipe, run_dir: RunDirectory, ranks: DistributedContext) -> None:
    """The run of every rank but the first: it trains, and writes nothing.

    Args:
        recipe: as the user gave it; the first rank writes the pinned ``[start]`` into the run
            directory, where this rank reads it.
    """
    logging.getLogger("xraygan").addHandler(logging.NullHandler())
    silent = Display(Console(quiet=True))
    ranks.wait()  # until the first has prepared the data, and recorded what the run starts from
    recipe = pin_start(recipe, run_dir)
    with threads(recipe.tables.run.threads):
        session = Session.of(recipe, silent, ranks)
        _start_from_other_run(session, run_dir)
        Trainer(session, run_dir, silent, ranks).run()


def _start_from_other_run(session: Session, run_dir: RunDirectory) -> list[str]:
    """Load another run's networks, if ``[start]`` names one and this run has no checkpoint yet.

    Returns:
        Lines for the log: which tensors were loaded.
    """
    if session.recipe.tables.start is None or checkpoint.latest(run_dir.checkpoints) is not None:
        return []
    return load_start_networks(session.recipe, session.graph)


def check_batch_size(recipe: Recipe, ranks: int) -> None:
    """Check that a batch can be divided equally among ranks and micro-batches.

    Raises:
        UserError: it cannot.
    """
    config = recipe.tables.run
    parts = ranks * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"[run] batch_size: {config.batch_size} images cannot be divided into {parts} equal "
            f"parts ({ranks} --devices times [run] accumulate = {config.accumulate}); set a "
            f"multiple of {parts}"
        )
