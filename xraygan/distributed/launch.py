"""Launches a command as several ranks on this machine, and ends all of them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

import click

from xraygan.utils.signals import record_signals

#: exit code of a rank that stopped because another one ended
LOST = 75
#: time in which the other ranks can save a checkpoint after one of them ended
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.1


def is_rank() -> bool:
    """Whether a launcher, this one or torchrun, has started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(arguments: Sequence[str], count: int) -> int:
    """Run ``xraygan ARGUMENTS`` as ``count`` ranks on this machine and wait for them.

    The first rank prints. The output of another one is shown only if that rank failed, or saved a
    checkpoint in place of the first.

    Returns:
        The exit code of the first rank; 1 where another rank ended the run.
    """
    with ExitStack() as stack:
        caught = stack.enter_context(record_signals())
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(1, count)]
        ranks: list[subprocess.Popen] = []
        stack.callback(_kill, ranks)
        port = _free_port()
        for i, out in enumerate([None, *outputs]):
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", "xraygan", *arguments],
                    env=_rank_environment(i, count, port),
                    stdout=out,
                    stderr=out,
                )
            )
        codes = _wait(ranks, caught)
        if codes[0] >= 0 and codes[0] != LOST:
            return codes[0]
        messages = ["", *(_read_output(out) for out in outputs)]
        for i, code in enumerate(codes):
            if code not in (0, LOST):
                reason = f"exit code {code}" if code > 0 else signal.Signals(-code).name
                click.echo(f"xraygan: rank {i} of {count} ended: {reason}", err=True)
                click.echo(messages[i], nl=bool(messages[i]), err=True)
        if codes[0] != LOST and LOST in codes:
            # The first rank died; this one saved for it, and its message says so.
            click.echo(messages[codes.index(LOST)], err=True)
        return 1


def _kill(ranks: Sequence[subprocess.Popen]) -> None:
    for rank in ranks:
        rank.kill()


def _read_output(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _wait(ranks: Sequence[subprocess.Popen], caught: list[int]) -> list[int]:
    """Wait for all ranks, and pass signals on to them; returns their exit codes.

    After one rank has failed, the others have :data:`GRACE_SECONDS` before they are killed.
    """
    deadline = None
    forwarded = 0
    while any(rank.poll() is None for rank in ranks):
        for number in caught[forwarded:]:
            for rank in ranks:
                rank.send_signal(number)
        forwarded = len(caught)
        if deadline is None and any(rank.poll() for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            _kill(ranks)
        time.sleep(POLL_SECONDS)
    return [rank.wait() for rank in ranks]


def _rank_environment(index: int, count: int, port: int) -> dict[str, str]:
    """The environment of a rank: torchrun's variables, and its share of the processors."""
    threads = max(1, (os.cpu_count() or 1) // count)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
