"""Importing plugins, which may raise anything, end the process, or never come back."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xraygan.errors import describe_error

#: after how long it is said which plugin is being imported
SECONDS = 5.0


class ImportFault(Exception):
    """Why a plugin cannot be imported."""


@contextmanager
def loading(plugin: str, *, own: bool) -> Iterator[None]:
    """Within it a plugin's code is run to import it.

    If that takes long it is said which plugin it is. Ctrl-C names it too, and ends the command.

    Args:
        plugin: how a message names it.
        own: whether it comes with the toolkit, and will come back.

    Raises:
        ImportFault: it raised something, whatever it is: the others must go on.
        KeyboardInterrupt: Ctrl-C was pressed; the plugin did not raise it by itself.
    """
    timer = threading.Timer(SECONDS, _say, [f"still importing {plugin}; Ctrl-C ends this"])
    timer.daemon = True
    if not own:
        timer.start()
    try:
        with _noting_interrupts():
            try:
                yield
            except KeyboardInterrupt as error:
                if _pressed:
                    _say(f"interrupted while importing {plugin}")
                    raise
                raise ImportFault(describe_error(error)) from error
            except BaseException as error:
                raise ImportFault(describe_error(error)) from error
    finally:
        timer.cancel()


#: how often Ctrl-C was pressed while plugins were imported, one within another perhaps
_pressed: list[int] = []


def _note(number: int, frame: Any) -> None:
    _pressed.append(number)
    raise KeyboardInterrupt


@contextmanager
def _noting_interrupts() -> Iterator[None]:
    """Within it Ctrl-C is noted in :data:`_pressed`, where that is to be had."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _pressed.clear()
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _note:  # the plugin may have set one of its own
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _say(text: str) -> None:
    print(f"xraygan: {text}", file=sys.stderr, flush=True)
