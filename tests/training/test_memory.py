"""What a long run keeps: neither memory nor open files grow with its steps."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GAN
from xraygan_resnet.networks import ResNet18

from xraygan.parts.registry import installed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
#: MiB that may come between the middle of a run and its end, 0.4 of its steps later
MOST = 4


@pytest.fixture(scope="module")
def memory() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import memory

        yield memory


def trim(step: int) -> None:
    """Give back what is free: what is left grows with what is kept, wherever it is put."""
    ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.slow
def test_memory_and_open_files_stay_as_they_are(memory: Any, tmp_path: Path) -> None:
    """Every score, metric and tracker on; benchmarks/memory.py takes 5,000 steps."""
    resident, files = memory.measured(tmp_path, memory.everything(200, 40), trim)
    assert memory.growth(resident) < MOST * memory.MIB, resident[::10] // memory.MIB
    assert memory.growth(files) == 0 and np.ptp(files[40:]) <= 2, files[::10]
    assert installed().get("classifier", "resnet18").cls is ResNet18, "the stand-in stayed"


def test_a_leak_is_seen(memory: Any, tmp_path: Path) -> None:
    """1 MiB every ten steps and a file every step."""
    kept: list[torch.Tensor] = []
    with ExitStack() as opened:

        def leak(step: int) -> None:
            opened.enter_context((tmp_path / "file").open("w"))
            if step % 10 == 0:
                kept.append(torch.ones(memory.MIB // 4))
            trim(step)

        tables = {**GAN, "run": {**GAN["run"], "steps": 200, "device": "cpu", "log_every": 1}}
        resident, files = memory.measured(tmp_path, tables, leak)
    assert memory.growth(resident) > MOST * memory.MIB, resident[::10] // memory.MIB
    assert memory.growth(files) == 80
