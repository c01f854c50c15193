"""Signals: SIGINT, SIGTERM and SIGHUP end a run after its current step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from xraygan.errors import NoFault

#: sent by the keyboard, by another process, and by a terminal that closes (not on Windows)
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(NoFault):
    """A signal ended the run after its step was finished and saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def record_signals() -> Iterator[list[int]]:
    """Record the signals of :data:`ENDING` in a list within this context, so that the current step
    can be finished. Signals that are ignored, as SIGHUP is by ``nohup``, stay ignored."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    handled = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, note) for number in handled}
    except ValueError:  # only the main thread may set handlers
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
