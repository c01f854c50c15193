"""SIGINT, SIGTERM and SIGHUP end a run after its step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from xraygan.errors import NoFault

#: by the keyboard, by another process, and by a terminal that is closed (there is none on Windows)
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(NoFault):
    """A signal ended the run after its step was finished and saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Within it the signals of :data:`ENDING` are noted in the list, so that the step can be
    finished; one that is ignored, as SIGHUP is by ``nohup``, still is."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, note) for number in heeded}
    except ValueError:  # not the main thread, which alone may set handlers
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
