"""Many images decoded at once, straight into a file."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from xraygan.errors import UserError, describe_error
from xraygan.parts.interfaces import Dataset

from .greys import Grey, reading

#: images that a worker decodes between two reports; part of what a digest is of
CHUNK = 32
#: chunks between two times that what was decoded is forced to the disk
SYNC = 32

#: ``progress(what, total)`` is a context that yields ``advance(count)``
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class LoadFault(Exception):
    """A dataset's ``load`` did what it must not; the message says what."""


class GreyFault(LoadFault):
    """A dataset's ``load`` does not follow the recipe's range of greys."""


def load(
    dataset: Dataset, path: str, size: int, grey: Grey = "full"
) -> tuple[np.ndarray, set[str]]:
    """One image of a dataset.

    Returns:
        Its pixels, ``(size, size)`` uint8, and what is doubtful of them: keys of
        :data:`xraygan.data.greys.DOUBTS`.

    Raises:
        UserError: the image cannot be read.
        LoadFault: the dataset raised something else, or gave something else.
    """
    try:
        with reading(grey) as found:
            image = dataset.load(path, size)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise LoadFault(f"load({path!r}, {size}) raised {describe_error(error)}") from error
    if grey != "full" and not found.asked:
        raise GreyFault(f"load({path!r}, {size}) does not read its image with read_grey")
    if isinstance(image, np.ndarray):
        given = f"{image.dtype} of shape {image.shape}"
        if image.dtype == np.uint8 and image.shape == (size, size):
            return image, found.doubts
    else:
        given = type(image).__name__
    expected = f"expected uint8 of shape {(size, size)}"
    raise LoadFault(f"load({path!r}, {size}) returned {given}; {expected}")


@dataclass
class Decoded:
    """What came of images that were decoded.

    Attributes:
        bad: what cannot be read: path -> reason.
        doubts: what can be read and may be ruined: path -> keys of
            :data:`xraygan.data.greys.DOUBTS`.
        sha256: a digest of all pixels.
    """

    bad: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, set[str]] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True)
class Job:
    """What there is to decode, and into which file.

    Attributes:
        offset: where in the file the pixels begin.
        grey: the range of greys.
    """

    dataset: Dataset
    paths: Sequence[str]
    size: int
    file: Path
    offset: int
    grey: Grey

    def chunk(self, start: int) -> tuple[bytes, Decoded]:
        """Decode :data:`CHUNK` images from row ``start`` on and write them.

        Returns:
            The sha256 of their pixels, and what came of them; what cannot be read stays black.
        """
        paths = self.paths[start : start + CHUNK]
        pixels = np.zeros((len(paths), self.size, self.size), dtype=np.uint8)
        found = Decoded()
        for row, path in enumerate(paths):
            try:
                pixels[row], doubts = load(self.dataset, path, self.size, self.grey)
            except UserError as error:
                found.bad[path] = str(error)
            else:
                if doubts:
                    found.doubts[path] = doubts
        with self.file.open("r+b") as out:
            out.seek(self.offset + start * self.size**2)
            out.write(pixels.data)
        return hashlib.sha256(pixels.data).digest(), found


def header_of(count: int, size: int) -> bytes:
    """What a ``.npy`` file of ``(count, size, size)`` uint8 begins with."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(stream := BytesIO(), header)
    return stream.getvalue()


def digest_of(pixels: np.ndarray) -> str:
    """The digest that :func:`decode` returns, of pixels that were decoded before."""
    starts = range(0, len(pixels), CHUNK)
    return _joined([hashlib.sha256(pixels[i : i + CHUNK].data).digest() for i in starts])


def _joined(digests: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def decode(
    dataset: Dataset,
    paths: Sequence[str],
    size: int,
    file: Path,
    progress: Progress,
    grey: Grey = "full",
) -> Decoded:
    """Decode images into a new ``.npy`` file, ``(N, size, size)`` uint8, in the order of ``paths``.

    Each processor decodes in a process of its own: what Pillow does in Python between two images
    is enough for threads to wait for each other most of the time. Processes are forked, so a
    dataset need not be picklable; where forking is not to be had, threads take their place.

    Returns:
        What came of them, in the order of ``paths``.

    Raises:
        UserError: the operating system has killed a worker.
        LoadFault: the dataset did what it must not.
        OSError: the file cannot be written.
    """
    header = header_of(len(paths), size)
    file.write_bytes(header)
    offset = len(header)
    starts = range(0, len(paths), CHUNK)
    pool, chunk = _pool(
        Job(dataset, paths, size, file, offset, grey), min(processors(), len(starts))
    )
    digests: dict[int, bytes] = {}
    bad: dict[str, str] = {}
    doubts: dict[str, set[str]] = {}
    try:
        # All are submitted, and so all workers forked, before a display starts its thread.
        futures = {pool.submit(chunk, start): start for start in starts}
        with progress("decoding images", len(paths)) as advance, file.open("r+b") as out:
            for future in as_completed(futures):
                start = futures[future]
                digests[start], found = future.result()
                bad |= found.bad
                doubts |= found.doubts
                advance(len(paths[start : start + CHUNK]))
                # Or a power cut would leave a store of black images; now and then, for the disk
                # to work while images are decoded and not after.
                if len(digests) % SYNC == 0 or len(digests) == len(starts):
                    os.fsync(out.fileno())
    except BrokenProcessPool:
        raise UserError(
            "a process that was decoding images has been killed, as happens when memory runs out; "
            "the same command starts over"
        ) from None
    finally:
        # Waiting is a matter of milliseconds. Not to wait would be a race where this process is
        # itself a child: its exit may close the queue before the workers are told to end.
        pool.shutdown(cancel_futures=True)
    return Decoded(
        {path: bad[path] for path in paths if path in bad},
        {path: doubts[path] for path in paths if path in doubts},
        _joined([digests[start] for start in starts]),
    )


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _can_fork() -> bool:
    # Elsewhere forking is unsafe or unknown, and a daemon may have no children.
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _pool(job: Job, count: int) -> tuple[Executor, Callable[[int], tuple[bytes, Decoded]]]:
    if count < 2 or not _can_fork():
        return ThreadPoolExecutor(max(1, count)), job.chunk
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(count, context, _begin, (job,)), _chunk


# -- in a worker process ---------------------------------------------------------------------------

_job: Job


def _begin(job: Job) -> None:
    global _job
    _job = job
    gc.freeze()  # to look through what was inherited would copy all of it
    torch.set_num_threads(1)  # its pool of threads was not inherited
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it at once; the parent says so
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _chunk(start: int) -> tuple[bytes, Decoded]:
    return _job.chunk(start)


def _end_with_parent() -> None:
    """A killed parent can tell nobody: its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
