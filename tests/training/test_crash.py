"""Runs that die, and disks that fail them: nothing is lost, and they resume to the same bits."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import crash
import pytest
from forked import fork
from undisturbed import outcome

from xraygan import UserError
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory


def start(out: Path, *moment: int) -> ForkServerProcess:
    return fork(crash.train, str(out), *moment)


def train(out: Path, *moment: int) -> int | None:
    process = start(out, *moment)
    process.join()
    return process.exitcode


def state(out: Path) -> tuple[dict, list]:
    """What two equal runs have in common: the last checkpoint's hashes and the logged values."""
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    assert (out / "checkpoints/latest").read_text() == found.directory.name + "\n"
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    return found.manifest.files, [(line["step"], line["terms"], line["records"]) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An undisturbed run, and the seconds that it took."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out.with_name("warm"))
    began = time.monotonic()
    assert train(out) == 0
    return out, time.monotonic() - began


@pytest.mark.slow
def test_runs_killed_at_any_moment_resume_to_the_same_bits(
    whole: tuple[Path, float], tmp_path: Path
) -> None:
    """Five die while a checkpoint is written, five at any time; every third dies twice."""
    undisturbed, seconds = whole
    changes = int(undisturbed.with_name("run.changes").read_text())

    def trial(number: int) -> Path:
        draw = random.Random(number)
        out = tmp_path / f"run-{number}"
        for _ in range(2 if number % 3 == 0 else 1):
            if number % 2:
                # A second life writes fewer checkpoints, and may come to its end.
                assert train(out, draw.randrange(changes)) in (-signal.SIGKILL, 0)
                continue
            process = start(out)
            process.join(draw.uniform(0.05, 0.9) * seconds)
            process.kill()
            process.join()
        assert train(out) == 0
        return out

    with ThreadPoolExecutor(2) as pool:
        for out in pool.map(trial, range(10)):
            assert outcome(out) == outcome(undisturbed), out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def resize(disk: Path, size: float) -> None:
    subprocess.run(["mount", "-o", f"remount,size={int(size)}", disk], check=True)


@pytest.mark.parametrize("checkpoints", [0.001, 1.02])
def test_a_full_disk_leaves_the_last_checkpoint(
    checkpoints: float, small_disk: Path, whole: tuple[Path, float]
) -> None:
    """Whatever it is that finds the disk full, the run can go on when there is room."""
    [saved] = (whole[0] / "checkpoints").glob("step-*")
    size = sum(path.stat().st_size for path in saved.iterdir())
    resize(small_disk, checkpoints * size)
    out = small_disk / "run"
    assert train(out) == 2
    said = Path(f"{out}.said").read_text()
    assert "No space left on device" in said and str(out) in said
    found = checkpoint.latest(out / "checkpoints")
    if checkpoints > 1:
        assert found is not None and f"step {found.step} is intact" in said
    resize(small_disk, 10 * size)
    assert train(out) == 0
    assert state(out) == state(whole[0])


def test_a_directory_that_cannot_be_written_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with (
        pytest.raises(UserError, match=r"disk/run: cannot be written \(Read-only file system\)"),
        RunDirectory(small_disk / "run").locked(),
    ):
        pass


def test_a_signal_while_a_checkpoint_is_written(whole: tuple[Path, float], tmp_path: Path) -> None:
    number = signal.SIGINT
    changes = int(whole[0].with_name("run.changes").read_text())
    out = tmp_path / "run"
    assert train(out, changes // 3, number) == 128 + number
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None and found.step == 4
    assert train(out) == 0
    assert state(out) == state(whole[0])


def test_latest_and_best_name_a_checkpoint_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two leaves pointers to the former one."""
    named, rename = [], Path.rename

    def renamed(path: Path, target: Path) -> Path:
        named.append([checkpoint.find(tmp_path, which).step for which in ("latest", "best")])
        return rename(path, target)

    graph: Any = SimpleNamespace(networks={})
    monkeypatch.setattr(checkpoint.checkpoint_contents, "contents", lambda graph: {})
    checkpoint.save(tmp_path, 1, graph, best=True)
    monkeypatch.setattr(Path, "rename", renamed)
    checkpoint.save(tmp_path, 2, graph, best=True)
    checkpoint.save(tmp_path, 3, graph)
    assert named == [[1, 1], [2, 2]]
    assert (tmp_path / "latest").read_text() == "step-00000003\n"
    assert checkpoint.find(tmp_path, "best").step == 2


def test_two_runs_cannot_write_one_directory(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with RunDirectory(out).locked():
        assert train(out) == 2
    assert "is being written by another process" in Path(f"{out}.said").read_text()
