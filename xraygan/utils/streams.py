"""Standard output and standard error that may go away while a command runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from xraygan.errors import UserError

#: the terminal was closed, the reader of the pipe has ended, or nothing was there from the start
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)


class _Lasting:
    """A text stream to which writing goes on, into nothing, when nobody is there to read it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if text == "":  # as click does, to see whether this is a text stream
            return 0
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """Go on where a reader is gone; a result that a full disk does not take is an error."""
        number = self._stream.fileno()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)  # what is buffered goes there, too
        os.close(nothing)
        if number == 1 and error.errno not in _GONE:
            raise UserError(f"standard output cannot be written ({error.strerror})") from error


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Within it no command ends because its output is closed, or cannot show a letter."""
    _open_standard_files()
    before = sys.stdout, sys.stderr
    for stream in before:
        with suppress(AttributeError, ValueError, OSError):  # closed, or not a file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123
        # There is none where it was closed when Python started.
        sys.stdout, sys.stderr = (_Lasting(s or nothing) for s in before)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _open_standard_files() -> None:
    """Or the first files that are opened would take the numbers of those that are closed, and
    messages of libraries would be written into them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
