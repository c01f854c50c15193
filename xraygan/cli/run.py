"""``xraygan run``: train and evaluate a recipe, and write a run directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from xraygan.utils.limits import MOST_PROCESSES, MOST_STEPS

from .options import BoundedInt, SafePath, quiet_option, recipe_argument, set_option
from .printing import print_metrics


@click.command()
@recipe_argument
@set_option
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    help="The run directory; runs/NAME by default.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in the directory, if there is one. Keys that do not affect the trained "
    "networks may change: the data's folder, the device, intervals, metrics, trackers.",
)
@click.option(
    "--steps",
    type=BoundedInt(1, MOST_STEPS),
    metavar="N",
    help="Train for N steps in total (--set run.steps=N); with --resume, continue a finished run.",
)
@click.option(
    "--from",
    "from_run",
    type=SafePath(file_okay=False),
    metavar="RUN",
    help="Start from the networks of another run whose shapes match (--set start.run=RUN).",
)
@click.option(
    "--from-checkpoint",
    metavar="latest|best|STEP",
    help="The checkpoint of that run; latest by default.",
)
@click.option(
    "--devices",
    type=BoundedInt(1, MOST_PROCESSES),
    default=1,
    metavar="N",
    help="Spread each batch over N GPUs of this machine (or N processes, without GPUs).",
)
@quiet_option
def run(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    steps: int | None,
    from_run: Path | None,
    from_checkpoint: str | None,
    devices: int,
    quiet: bool,
) -> None:
    """Train RECIPE, a file or the name of a shipped recipe."""
    from xraygan.distributed.launch import LOST, is_rank, launch
    from xraygan.recipe.files import sets_length, start_overrides
    from xraygan.recipe.loading import load

    overrides += start_overrides(from_run, from_checkpoint)
    overrides += (f"run.steps={steps}",) if steps else ()
    if devices > 1 and not is_rank():
        from xraygan.training.engine import check_batch_size

        check_batch_size(load(recipe, overrides), devices)  # fail before processes are started
        arguments = ["run", recipe]
        arguments += [argument for text in overrides for argument in ("--set", text)]
        arguments += ["--out", str(out)] if out else []
        sys.exit(launch(arguments + ["--resume"] * resume + ["--quiet"] * quiet, devices))

    from xraygan.distributed.ranks import RankFailed
    from xraygan.training.engine import run as train
    from xraygan.utils.progress import Display
    from xraygan.utils.signals import Interrupted

    display = Display(quiet=quiet)
    try:
        loaded, longer = load(recipe, overrides), sets_length(overrides)
        run_dir = train(loaded, out, resume=resume, longer=longer, display=display)
    except Interrupted as interrupted:
        display.say(f"xraygan: {interrupted}: the run is saved; continue it with --resume")
        sys.exit(128 + interrupted.number)
    except RankFailed as lost:
        display.say(f"xraygan: another rank ended ({lost}")
        sys.exit(LOST)
    if os.environ.get("RANK", "0") == "0":
        print_metrics(run_dir.evaluation)
        click.echo(f"{run_dir.path}/report.html")
