"""Run a sweep: each run in its own process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from xraygan.utils.atomic_files import write_atomically
from xraygan.utils.precision import RUNS_PER_GPU
from xraygan.utils.progress import Display
from xraygan.utils.signals import Interrupted, record_signals

from .existing_runs import REMEDY, delete_run, refuse_changed, run_changes
from .file import Sweep
from .plan import Run, plan, tail

POLL_SECONDS = 0.5


def prepare_runs(sweep: Sweep, out: Path, *, redo: bool = False, remedy: str = REMEDY) -> list[Run]:
    """Plan the runs of a sweep, check the runs that exist already, and write the recipes.

    Args:
        out: the sweep's folder.
        redo: delete the existing runs that have another recipe or evaluation; keep the others.
        remedy: what to do about such runs, for the message.

    Raises:
        UserError: an existing run has another recipe or evaluation, and ``redo`` is false.
    """
    runs = plan(sweep, out)
    compared = [(run, run_changes(run.run_dir, sweep.recipe(run.row, run.seed))) for run in runs]
    changed = [(run, changes) for run, changes in compared if changes]
    if not redo:
        refuse_changed(changed, remedy)
    for run, _ in changed:
        delete_run(run.run_dir)
        run.log.unlink(missing_ok=True)
    for run in runs:
        for folder in (run.recipe.parent, run.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.recipe, sweep.recipe_text(run.row, run.seed))
    return runs


def run_all(
    sweep: Sweep,
    out: Path,
    display: Display,
    jobs: int = 1,
    *,
    redo: bool = False,
    remedy: str = REMEDY,
) -> list[Run]:
    """Run all runs that are not complete, ``jobs`` runs at a time.

    An interrupted run is resumed. A run that another process is writing is waited for. A run that
    fails is reported, and the other runs continue.

    Args:
        out: the sweep's folder.
        jobs: number of parallel runs; each has one of several GPUs, or a share of the processor.
        redo, remedy: see :func:`prepare_runs`.

    Returns:
        Every run.

    Raises:
        Interrupted: SIGINT or SIGTERM was received; the runs have saved their last step.
        UserError: see :func:`prepare_runs`.
    """
    runs = prepare_runs(sweep, out, redo=redo, remedy=remedy)
    waiting = [run for run in runs if not run.done]
    running: list[Run] = []
    finished = len(runs) - len(waiting)
    if finished:
        display.say(f"{finished} of {len(runs)} runs are done already")
    with record_signals() as caught, display.training(len(runs), "runs", done=finished) as show:
        while waiting or running:
            if caught:
                _stop_runs(running)
                raise Interrupted(caught[0])
            free = sorted({*range(jobs)} - {run.slot for run in running})
            ready = [run for run in waiting if not run.run_dir.is_locked()]
            for slot, run in zip(free, ready, strict=False):
                waiting.remove(run)
                if not run.done:  # another process may have finished it meanwhile
                    _start_run(run, slot, jobs)
                    running.append(run)
            for run in [run for run in running if run.process and run.process.poll() is not None]:
                running.remove(run)
                _record_end(run, display)
            failed = sum(bool(run.failure) for run in runs)
            done = len(runs) - len(waiting) - len(running)
            show(done + sum(run.progress() for run in running), {"failed": failed})
            time.sleep(POLL_SECONDS if running or waiting else 0)
    return runs


def _start_run(run: Run, slot: int, jobs: int) -> None:
    environment = dict(os.environ)
    if jobs > 1:
        share = max((os.cpu_count() or 1) // jobs, 1)
        environment.setdefault("OMP_NUM_THREADS", str(share))
        environment |= gpu_settings(slot, jobs)
    command = [sys.executable, "-m", "xraygan", "run", str(run.recipe), "--resume"]
    with run.log.open("ab") as log:
        # In its own session, so that Ctrl-C in a terminal reaches it only through this process.
        run.process = subprocess.Popen(
            [*command, "--out", str(run.run_dir.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    run.slot = slot


def gpu_settings(slot: int, jobs: int) -> dict[str, str]:
    """The environment variables that give one of several parallel runs its GPU.

    The GPUs are those of ``CUDA_VISIBLE_DEVICES``, if it is set. Runs that share one also share
    its memory.
    """
    count = torch.cuda.device_count()
    if not count:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    gpus = [name.strip() for name in visible.split(",")][:count]
    sharing = math.ceil(jobs / len(gpus))
    return {
        "CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)],
        RUNS_PER_GPU: str(sharing * int(os.environ.get(RUNS_PER_GPU, "1"))),
    }


def _record_end(run: Run, display: Display) -> None:
    """Record the exit code of a run that ended, and report a failure."""
    assert run.process is not None
    run.code = run.process.returncode
    if run.code == 0 and run.done:
        return
    lines = tail(run.log).strip().splitlines()
    error = next((line for line in reversed(lines) if line.startswith("xraygan: ")), "")
    reason = error.removeprefix("xraygan: ") or (lines[-1] if lines else "it printed nothing")
    if run.code == -getattr(signal, "SIGBUS", 0):
        reason = f"its image store, which {run.run_dir.log} names, was cut short while it was read"
    run.failure = f"exit code {run.code}: {reason}"
    display.say(f"failed: {run.row.label}, seed {run.seed}: {run.failure}\n  see {run.log}")


def _stop_runs(running: list[Run]) -> None:
    """Ask the runs to end, and wait until they have saved their step."""
    for run in running:
        if run.process:
            run.process.terminate()
    for run in running:
        if run.process:
            run.process.wait()
