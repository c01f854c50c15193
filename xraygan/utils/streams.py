"""Standard output and standard error that may be closed while a command runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from xraygan.errors import UserError

#: the terminal was closed, the reader of the pipe ended, or the stream was closed from the start
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)


class _TolerantStream:
    """A text stream whose output is discarded after its reader is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if text == "":  # click writes this to test for a text stream
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
        """Discard further output if the reader is gone; on a full disk, a result is an error."""
        number = self._stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)  # buffered output goes there, too
        os.close(null)
        if number == 1 and error.errno not in _GONE:
            raise UserError(f"standard output cannot be written ({error.strerror})") from error


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Keep a closed output, or one that cannot show a letter, from ending a command."""
    _open_standard_files()
    before = sys.stdout, sys.stderr
    for stream in before:
        with suppress(AttributeError, ValueError, OSError):  # closed, or not a file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with open(os.devnull, "w", encoding="utf-8") as null:  # noqa: PTH123
        # A stream that was closed when Python started is None.
        sys.stdout, sys.stderr = (_TolerantStream(s or null) for s in before)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _open_standard_files() -> None:
    """Open closed standard files on the null device.

    Otherwise the first opened files would get their numbers, and messages of libraries would be
    written into them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
