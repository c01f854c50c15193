"""Runs of a sweep that are started at once share the GPUs, and the memory of each."""

from __future__ import annotations

import pytest
import torch

from xraygan.sweep.runner import gpu_settings
from xraygan.utils.precision import RUNS_PER_GPU, memory_for_images


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 2, ["0", "1", "0", "1"]),
        ("2,5", 2, ["2", "5", "2", "5"]),
        ("GPU-a, GPU-b,GPU-c", 3, ["GPU-a", "GPU-b", "GPU-c", "GPU-a"]),
        ("7", 1, ["7", "7", "7", "7"]),
        ("0,9", 1, ["0", "0", "0", "0"]),  # there is no ninth, and CUDA stops at the first such
    ],
)
def test_each_run_has_one_of_the_visible_gpus(
    visible: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    given = [gpu_settings(slot, 4) for slot in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in given] == expected
    most = max(map(expected.count, expected))
    assert {one[RUNS_PER_GPU] for one in given} == {str(most)}


def test_without_a_gpu_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpu_settings(1, 4) == {}


def test_runs_on_one_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1200, 2000))
    monkeypatch.delenv(RUNS_PER_GPU, raising=False)
    assert memory_for_images(torch.device("cuda", 0)) == 600
    monkeypatch.setenv(RUNS_PER_GPU, "3")
    assert memory_for_images(torch.device("cuda", 0)) == 200
