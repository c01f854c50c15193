"""Decodes many images in parallel, straight into a file."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from xraygan.errors import UserError, describe_error
from xraygan.parts.interfaces import Dataset

from .greys import Grey, grey_context

#: images that a worker decodes between two reports; the digest of all pixels depends on it
CHUNK = 32
#: chunks after which the decoded images are forced to the disk
SYNC = 32

#: ``progress(what, total)`` is a context that yields ``advance(count)``
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class LoadFault(Exception):
    """A dataset's ``load`` broke its contract; the message says how."""


class GreyFault(LoadFault):
    """A dataset's ``load`` does not follow the recipe's range of greys."""


def load_image(
    dataset: Dataset, path: str, size: int, grey: Grey = "full"
) -> tuple[np.ndarray, set[str]]:
    """Load one image of a dataset.

    Returns:
        Its pixels, ``(size, size)`` uint8, and keys of :data:`xraygan.data.greys.DOUBTS`.

    Raises:
        UserError: the image cannot be read.
        LoadFault: the dataset raised another error, or did not return such pixels.
    """
    try:
        with grey_context(grey) as context:
            image = dataset.load(path, size)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise LoadFault(f"load({path!r}, {size}) raised {describe_error(error)}") from error
    if grey != "full" and not context.used:
        raise GreyFault(f"load({path!r}, {size}) does not read its image with read_grey")
    if isinstance(image, np.ndarray):
        returned = f"{image.dtype} of shape {image.shape}"
        if image.dtype == np.uint8 and image.shape == (size, size):
            return image, context.doubts
    else:
        returned = type(image).__name__
    expected = f"expected uint8 of shape {(size, size)}"
    raise LoadFault(f"load({path!r}, {size}) returned {returned}; {expected}")


@dataclass
class Decoded:
    """The result of decoding images, apart from their pixels.

    Attributes:
        bad: images that cannot be read: path -> reason.
        doubts: images that can be read and may be ruined: path -> keys of
            :data:`xraygan.data.greys.DOUBTS`.
        sha256: a digest of all pixels.
    """

    bad: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, set[str]] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True)
class DecodeJob:
    """Images to decode, and the file to decode them into.

    Attributes:
        paths: their paths, in the order of the file's rows.
        size: S, pixels.
        offset: bytes before the pixels in the file.
        grey: the grey range.
    """

    dataset: Dataset
    paths: Sequence[str]
    size: int
    file: Path
    offset: int
    grey: Grey

    def decode_chunk(self, start: int) -> tuple[bytes, Decoded]:
        """Decode :data:`CHUNK` images from row ``start`` on, and write their pixels.

        Returns:
            The sha256 of their pixels, and the rest of the result; an image that cannot be read is
            black.
        """
        paths = self.paths[start : start + CHUNK]
        pixels = np.zeros((len(paths), self.size, self.size), dtype=np.uint8)
        decoded = Decoded()
        for row, path in enumerate(paths):
            try:
                pixels[row], doubts = load_image(self.dataset, path, self.size, self.grey)
            except UserError as error:
                decoded.bad[path] = str(error)
            else:
                if doubts:
                    decoded.doubts[path] = doubts
        with self.file.open("r+b") as out:
            out.seek(self.offset + start * self.size**2)
            out.write(pixels.data)
        return hashlib.sha256(pixels.data).digest(), decoded


def npy_header(count: int, size: int) -> bytes:
    """The header of a ``.npy`` file of ``(count, size, size)`` uint8."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(stream := BytesIO(), header)
    return stream.getvalue()


def digest_pixels(pixels: np.ndarray) -> str:
    """The digest that :func:`decode` returns, of pixels that were decoded before."""
    starts = range(0, len(pixels), CHUNK)
    return _combine([hashlib.sha256(pixels[i : i + CHUNK].data).digest() for i in starts])


def _combine(digests: Sequence[bytes]) -> str:
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

    Each processor decodes in a process of its own, because threads would wait most of the time for
    the Python that Pillow runs between two images. Processes are forked, so a dataset need not be
    picklable; on systems where forking is unsafe, threads take their place. A worker writes its
    chunk into the file itself and returns a digest, so no pixel passes between processes.

    Returns:
        The result, in the order of ``paths``.

    Raises:
        UserError: the operating system has killed a worker.
        LoadFault: the dataset broke its contract.
        OSError: the file cannot be written.
    """
    header = npy_header(len(paths), size)
    file.write_bytes(header)
    job = DecodeJob(dataset, paths, size, file, len(header), grey)
    starts = range(0, len(paths), CHUNK)
    pool, decode_chunk = _start_pool(job, min(processors(), len(starts)))
    try:
        # All are submitted, and so all workers forked, before a display starts its thread.
        futures = {pool.submit(decode_chunk, start): start for start in starts}
        with progress("decoding images", len(paths)) as advance:
            return _collect(futures, job, advance)
    except BrokenProcessPool:
        raise UserError(
            "a process that decoded images has been killed, probably because memory ran out; run "
            "the same command again"
        ) from None
    finally:
        # Waiting takes milliseconds. Without it there would be a race where this process is itself
        # a child: its exit may close the queue before the workers receive the order to end.
        pool.shutdown(cancel_futures=True)


def _collect(
    futures: Mapping[Future[tuple[bytes, Decoded]], int],
    job: DecodeJob,
    advance: Callable[[int], None],
) -> Decoded:
    """Wait for all chunks, force their pixels to the disk, and combine their results.

    Args:
        futures: each with the row at which its chunk starts.
    """
    digests: dict[int, bytes] = {}
    bad: dict[str, str] = {}
    doubts: dict[str, set[str]] = {}
    with job.file.open("r+b") as out:
        for future in as_completed(futures):
            start = futures[future]
            digests[start], decoded = future.result()
            bad |= decoded.bad
            doubts |= decoded.doubts
            advance(len(job.paths[start : start + CHUNK]))
            # Without fsync, a power cut could leave a store of black images. Every few chunks, so
            # that the disk works while images are decoded, and not afterwards.
            if len(digests) % SYNC == 0 or len(digests) == len(futures):
                os.fsync(out.fileno())
    return Decoded(
        {path: bad[path] for path in job.paths if path in bad},
        {path: doubts[path] for path in job.paths if path in doubts},
        _combine([digests[start] for start in sorted(digests)]),
    )


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _can_fork() -> bool:
    # Elsewhere forking is unsafe or unknown, and a daemon may have no children.
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _start_pool(
    job: DecodeJob, count: int
) -> tuple[Executor, Callable[[int], tuple[bytes, Decoded]]]:
    """A pool of workers, and the function that they call with the first row of a chunk."""
    if count < 2 or not _can_fork():
        return ThreadPoolExecutor(max(1, count)), job.decode_chunk
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(count, context, _init_worker, (job,)), _decode_chunk


# -- in a worker process ---------------------------------------------------------------------------

_job: DecodeJob


def _init_worker(job: DecodeJob) -> None:
    global _job
    _job = job
    gc.freeze()  # a collection would touch, and so copy, all memory shared with the parent
    torch.set_num_threads(1)  # the pool of threads was not inherited
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the worker at once; the parent reports it
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _decode_chunk(start: int) -> tuple[bytes, Decoded]:
    return _job.decode_chunk(start)


def _exit_with_parent() -> None:
    """End this worker when its parent has been killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
