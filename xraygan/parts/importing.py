"""Importing plugins, whose code may raise any exception, end the process, or never return."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xraygan.errors import describe_error

#: seconds after which a message names the plugin that is being imported
SECONDS = 5.0


class ImportFault(Exception):
    """Why a plugin cannot be imported."""


@contextmanager
def import_errors(plugin: str, *, builtin: bool) -> Iterator[None]:
    """Turn any exception of a plugin's import within this context into an :class:`ImportFault`.

    A message names a plugin whose import takes long, and one that Ctrl-C interrupts.

    Args:
        plugin: the plugin as messages name it.
        builtin: whether it comes with the toolkit; then its import is not timed.

    Raises:
        ImportFault: the plugin raised an exception of any kind; other plugins can still be used.
        KeyboardInterrupt: Ctrl-C was pressed; the plugin did not raise it itself.
    """
    timer = threading.Timer(
        SECONDS, _print_message, [f"still importing {plugin}; Ctrl-C ends this"]
    )
    timer.daemon = True
    if not builtin:
        timer.start()
    try:
        with _recording_interrupts():
            try:
                yield
            except KeyboardInterrupt as error:
                if _pressed:
                    _print_message(f"interrupted while importing {plugin}")
                    raise
                raise ImportFault(describe_error(error)) from error
            except BaseException as error:
                raise ImportFault(describe_error(error)) from error
    finally:
        timer.cancel()


#: a signal for each time that Ctrl-C was pressed during an import, or an import within it
_pressed: list[int] = []


def _record_interrupt(number: int, frame: Any) -> None:
    _pressed.append(number)
    raise KeyboardInterrupt


@contextmanager
def _recording_interrupts() -> Iterator[None]:
    """Record Ctrl-C in :data:`_pressed` within this context, if no other handler is set."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _pressed.clear()
    signal.signal(signal.SIGINT, _record_interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _record_interrupt:  # the plugin may have set another
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _print_message(text: str) -> None:
    print(f"xraygan: {text}", file=sys.stderr, flush=True)
