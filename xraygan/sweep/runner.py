"""Runs a sweep: each run a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from xraygan.utils.atomic_files import write_atomically
from xraygan.utils.progress import Display
from xraygan.utils.signals import Interrupted, noting_signals

from .earlier import differing, refuse_others, remove
from .file import Sweep
from .plan import Run, plan, tail

POLL_SECONDS = 0.5


def begin(sweep: Sweep, out: Path, *, redo: bool = False) -> list[Run]:
    """Plan the runs of a sweep and write their recipes, once no run in their places is another.

    Args:
        out: the sweep's folder.
        redo: delete the runs in their places that have another recipe or evaluation; the others
            are left alone.

    Raises:
        UserError: a run in their places has another recipe or evaluation, and is to be left alone.
    """
    runs = plan(sweep, out)
    found = [(run, differing(run.place, sweep.recipe(run.row, run.seed))) for run in runs]
    others = [(run, changes) for run, changes in found if changes]
    if not redo:
        refuse_others(others)
    for run, _ in others:
        remove(run.place)
        run.log.unlink(missing_ok=True)
    for run in runs:
        for folder in (run.recipe.parent, run.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.recipe, sweep.recipe_text(run.row, run.seed))
    return runs


def run_all(
    sweep: Sweep, out: Path, display: Display, jobs: int = 1, *, redo: bool = False
) -> list[Run]:
    """Run what is not done yet, ``jobs`` runs at a time.

    A run that was stopped is resumed; one that another process is writing is waited for; one that
    fails is reported and the others go on.

    Args:
        out: the sweep's folder.
        jobs: with several GPUs each job has one; with none, they share the processor's cores.
        redo: see :func:`begin`.

    Returns:
        Every run.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the runs have saved their last step.
        UserError: see :func:`begin`.
    """
    runs = begin(sweep, out, redo=redo)
    waiting = [run for run in runs if not run.done]
    running: list[Run] = []
    finished = len(runs) - len(waiting)
    if finished:
        display.say(f"{finished} of {len(runs)} runs are done already")
    with noting_signals() as caught, display.training(len(runs), "runs", done=finished) as show:
        while waiting or running:
            if caught:
                _stop(running)
                raise Interrupted(caught[0])
            free = sorted({*range(jobs)} - {run.slot for run in running})
            ready = [run for run in waiting if not run.place.is_locked()]
            for slot, run in zip(free, ready, strict=False):
                waiting.remove(run)
                if not run.done:  # or another process has finished it meanwhile
                    _start(run, slot, jobs)
                    running.append(run)
            for run in [run for run in running if run.process and run.process.poll() is not None]:
                running.remove(run)
                _end(run, display)
            failed = sum(bool(run.failure) for run in runs)
            done = len(runs) - len(waiting) - len(running)
            show(done + sum(run.progress() for run in running), {"failed": failed})
            time.sleep(POLL_SECONDS if running or waiting else 0)
    return runs


def _start(run: Run, slot: int, jobs: int) -> None:
    environment = dict(os.environ)
    if jobs > 1:
        share = max((os.cpu_count() or 1) // jobs, 1)
        environment.setdefault("OMP_NUM_THREADS", str(share))
        if (gpus := torch.cuda.device_count()) > 1:
            environment.setdefault("CUDA_VISIBLE_DEVICES", str(slot % gpus))
    command = [sys.executable, "-m", "xraygan", "run", str(run.recipe), "--resume"]
    with run.log.open("ab") as log:
        # In a session of its own, so that a terminal's Ctrl-C reaches it through us alone.
        run.process = subprocess.Popen(
            [*command, "--out", str(run.place.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    run.slot = slot


def _end(run: Run, display: Display) -> None:
    assert run.process is not None
    run.code = run.process.returncode
    if run.code == 0 and run.done:
        return
    said = tail(run.log).strip().splitlines()
    why = next((line for line in reversed(said) if line.startswith("xraygan: ")), "")
    last = why.removeprefix("xraygan: ") or (said[-1] if said else "it said nothing")
    if run.code == -getattr(signal, "SIGBUS", 0):
        last = f"its image store, which {run.place.log} names, was cut short while it was read"
    run.failure = f"exit code {run.code}: {last}"
    display.say(f"failed: {run.row.label}, seed {run.seed}: {run.failure}\n  see {run.log}")


def _stop(running: list[Run]) -> None:
    """Let the runs finish and save their step."""
    for run in running:
        if run.process:
            run.process.terminate()
    for run in running:
        if run.process:
            run.process.wait()
