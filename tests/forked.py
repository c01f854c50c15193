"""Processes forked from one that has imported what runs import: that takes seconds of each else."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from xraygan.cli import main
from xraygan.distributed.launch import _free_port, _rank_environment
from xraygan.recipe.loading import load

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["forked"])

# What a run imports late is imported before the forks.
load("ucgan_full", ["data.plugin=phantom", "extractors.vgg19.weights=random"])
for module in (
    "xraygan.training.engine",
    "xraygan.report.run_report",
    "xraygan.evaluation.generation",
):
    importlib.import_module(module)


def fork(
    target: Callable[..., None], *arguments: Any, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start ``target(*arguments)`` in a process of its own, which has this one's environment."""
    words = (dict(environment or os.environ), target, arguments)
    process = _SERVER.Process(target=_call, args=words)
    with pytest.MonkeyPatch.context() as patch:
        # The first process starts the server, which looks here for what it imports ahead; it goes
        # without if it finds nothing.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        process.start()
    return process


def fork_ranks(count: int, target: Callable[..., None], *arguments: Any) -> list[ForkServerProcess]:
    """Start ``target(*arguments)`` as each of several ranks; one alone is none."""
    port = _free_port()
    environments = [_rank_environment(i, count, port) if count > 1 else None for i in range(count)]
    return [fork(target, *arguments, environment=own) for own in environments]


def xraygan(*arguments: object, code: int = 0, cwd: Path | None = None) -> CompletedProcess[str]:
    """Run the command line in a process of its own and hold it to its exit code."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = fork(command, words, cwd or Path.cwd(), out, err)
        process.join()
        assert process.exitcode is not None
        done = CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _call(
    environment: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def command(words: list[str], cwd: Path, out: Path, err: Path) -> None:
    """Run the command line in this process, which ends with it; what it says goes to files."""
    os.chdir(cwd)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["xraygan", *words]
    main()
