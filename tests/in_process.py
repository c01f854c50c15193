"""Runs of a sweep in this process: a process for each would take longer than their training."""

from __future__ import annotations

from pathlib import Path

from xraygan.recipe.loading import load
from xraygan.sweep.file import Sweep
from xraygan.sweep.plan import Run
from xraygan.sweep.runner import prepare_runs
from xraygan.training.engine import run
from xraygan.utils.progress import Display


def execute(sweep: Sweep, folder: Path) -> list[Run]:
    runs = prepare_runs(sweep, folder)
    for one in runs:
        if not one.done:
            run(load(one.recipe), one.run_dir.path, resume=True, display=Display(quiet=True))
    return runs
