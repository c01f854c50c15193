"""Errors of a full, read-only or failing disk, as one message to the user."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from xraygan.errors import UserError

from .checkpoint import latest
from .directory import RunDirectory

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


@contextmanager
def disk_errors(run_dir: RunDirectory) -> Iterator[None]:
    """Turn an ``OSError`` of the disk within this context into a user's error.

    Raises:
        UserError: the disk could not be written; the message names the file and the checkpoint that
            is intact.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        checkpoint = latest(run_dir.checkpoints)
        saved = (
            f"The checkpoint of step {checkpoint.step} is intact"
            if checkpoint
            else "Nothing was saved"
        )
        raise UserError(
            f"{error.filename or run_dir.path}: cannot be written ({error.strerror}). "
            f"{saved}; make room, and continue the run with --resume"
        ) from error
