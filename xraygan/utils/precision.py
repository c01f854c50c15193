"""The device, threads and number formats of a run."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch

from xraygan.errors import UserError

#: environment variables by which OpenMP, MKL and torch choose threads and instructions
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS", "MKL_DYNAMIC",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY",
)  # fmt: skip


#: environment variable with the number of runs that share a GPU's memory
RUNS_PER_GPU = "XRAYGAN_RUNS_PER_GPU"


def memory_for_images(device: torch.device) -> int:
    """Bytes of a GPU that a run may fill with images: half of what is free, or of its share."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free // (2 * int(os.environ.get(RUNS_PER_GPU, "1")))


def choose_device(name: str) -> torch.device:
    """The device of ``[run] device``; ``auto`` is the current GPU, or the CPU without a GPU.

    The current GPU is the first one, or each rank's own.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'[run] device: expected "auto", "cpu" or "cuda", found {name!r}') from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f'[run] device: expected "auto", "cpu" or "cuda", found {name!r}')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"[run] device: there is no {name}; this machine has {torch.cuda.device_count()} GPUs"
        )
    return device


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set the number of processor threads of torch within this context, as of ``[run] threads``.

    Args:
        count: None for the current number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_settings() -> dict[str, Any]:
    """The settings that decide the last bits of sums on processors, for ``environment.json``."""
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "thread_variables": {n: os.environ[n] for n in THREAD_VARIABLES if n in os.environ},
    }


def choose_precision(name: str, device: torch.device) -> Callable[[], AbstractContextManager]:
    """Set the float32 mode of ``[run] precision``, and return the autocast context of networks.

    Parameters, losses and scores stay float32 in every mode.

    Raises:
        UserError: the device has no such mode.
    """
    if name == "auto":
        # Cards before Ampere (T4, V100) imitate bf16, more slowly than they compute in float32.
        # They have no TF32 either.
        gpu = device.type == "cuda"
        native = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bf16" if native else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise UserError('[run] precision: "tf32" is a mode of NVIDIA GPUs; use "fp32" or "bf16"')
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    if name == "bf16":
        return partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return nullcontext


def keep_freed_memory() -> None:
    """Let this process keep freed CPU memory for the tensors of the next step.

    By default glibc returns every large block to the system when it is freed, and the system clears
    its pages when they are allocated again: a quarter of the time of a training step. Also let
    PyTorch put large tensors on pages of 2 MiB, if Linux grants them and no tensor was made before,
    since looking up many small pages is slow. Does nothing with other C libraries.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    trim_threshold, mmap_max = -1, -4  # <malloc.h>
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)  # never trim; a number of bytes would be limited to 2 GiB


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let this thread, and those that compute for it, take float32 numbers below 1.2e-38 as zero.

    A discriminator whose score of an image is -90 leaves a gradient of e^-90 = 8e-40, and with such
    numbers a training step took 3.3 times as long on an Intel processor. Only for training, since
    what else runs in this process (Hypothesis, for example) may need them.
    """
    lowest = torch.full((), torch.finfo(torch.float32).smallest_normal)
    before = float(lowest / 2) == 0
    _flush_denormals(True)
    try:
        yield
    finally:
        _flush_denormals(before)


def _flush_denormals(mode: bool) -> None:
    """Set what :func:`flushed_denormals` sets."""
    if not torch.set_flush_denormal(mode):
        return  # not a mode of this processor
    # A thread has the mode of the thread that started it, and those of OpenMP stay once they have
    # computed. So end them: the next computation starts new ones. PyTorch brings its own library of
    # OpenMP, which is found among what PyTorch's module depends on.
    soft = 1  # omp_pause_soft of <omp.h>
    with suppress(OSError, AttributeError):  # OpenMP before 5.0, or none
        ctypes.CDLL(torch._C.__file__).omp_pause_resource_all(soft)


def make_deterministic() -> None:
    """Make operations deterministic; PyTorch warns about those that cannot be."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling guards against reading memory before it is written, but costs a pass over each tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
