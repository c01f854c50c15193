"""What a full, read-only or failing disk does to a run, in one message."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from xraygan.errors import UserError

from .checkpoint import latest
from .directory import RunDirectory

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


@contextmanager
def disk_errors(run_dir: RunDirectory) -> Iterator[None]:
    """Within it, a disk that takes no more is a user's error, whatever was to be written.

    Raises:
        UserError: the disk took no more; the message names the file and the checkpoint that is
            intact.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        found = latest(run_dir.checkpoints)
        saved = f"The checkpoint of step {found.step} is intact" if found else "Nothing was saved"
        raise UserError(
            f"{error.filename or run_dir.path}: cannot be written ({error.strerror}). "
            f"{saved}; make room, and continue the run with --resume"
        ) from error
