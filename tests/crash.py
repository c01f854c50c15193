"""A run in a process that dies, for test_crash.py."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import SMALL
from rich.console import Console

from xraygan import UserError
from xraygan.recipe.loading import load
from xraygan.rundir import checkpoint
from xraygan.training.engine import run
from xraygan.utils import atomic_files
from xraygan.utils.progress import Display
from xraygan.utils.signals import Interrupted

GIVEN = (
    *SMALL,
    "classifier.weights=random",
    'data.classes=["Cardiomegaly", "Effusion", "Edema"]',
    "run.steps=5",
    "run.save_every=2",
    "run.keep=1",
    "run.log_every=3",
    "generator.average=0.9",
    "evaluation.generated=4",
    "evaluation.bootstrap=0",
)

#: changes of the file system that checkpoints may still make before the signal
left = NEVER = 10**9
sent: int


def train(out: str, moment: int = NEVER, number: int = signal.SIGKILL) -> None:
    """Begin a run, or go on with it; the exit code is that of `xraygan run`.

    A user's error is left in OUT.said, and in OUT.changes how many changes of the file system its
    checkpoints made.

    Args:
        moment: the change at which it gets a signal; a file is half written then.
        number: the signal.
    """
    global left, sent
    left, sent = moment, number
    torch.set_num_threads(1)
    checkpoint._save = _dying(checkpoint._save)
    try:
        run(load("ucgan_full", GIVEN), Path(out), resume=True, display=Display(Console(quiet=True)))
    except UserError as error:
        Path(out + ".said").write_text(str(error))
        os._exit(2)
    except Interrupted as interrupted:
        os._exit(128 + interrupted.number)
    Path(out + ".changes").write_text(str(moment - left))


def _dying(save: Callable[..., Path]) -> Callable[..., Path]:
    """Arm the calls by which a checkpoint changes the file system, while it is written."""
    calls = (
        (checkpoint, "save_file"), (checkpoint, "sync"), (atomic_files, "sync"), (shutil, "rmtree"),
        (Path, "rename"), (Path, "replace"),
    )  # fmt: skip

    def saving(*arguments: Any) -> Path:
        former = [getattr(owner, name) for owner, name in calls]
        for (owner, name), call in zip(calls, former, strict=True):
            setattr(owner, name, _counted(call, name))
        try:
            return save(*arguments)
        finally:
            for (owner, name), call in zip(calls, former, strict=True):
                setattr(owner, name, call)

    return saving


def _counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def counting(*arguments: Any, **words: Any) -> Any:
        global left
        left -= 1
        if left == -1:
            if name == "save_file":
                file = Path(arguments[1])
                call(*arguments, **words)
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            os.kill(os.getpid(), sent)
        return call(*arguments, **words)

    return counting
