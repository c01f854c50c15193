"""The runs of a sweep, one for each row and seed, and their progress."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from xraygan.rundir import file_readers
from xraygan.rundir.completion import lacking
from xraygan.rundir.directory import RunDirectory

from .file import Row, Sweep

TAIL = 8192  # bytes that are read from the end of a file


@dataclass
class Run:
    """One row with one seed.

    Attributes:
        failure: why the run failed; empty otherwise.
        code: its exit code; None before it ended.
        slot: the index of its job, below the number of jobs.
    """

    row: Row
    seed: int
    run_dir: RunDirectory
    recipe: Path
    log: Path
    failure: str = ""
    code: int | None = None
    process: subprocess.Popen | None = field(default=None, repr=False)
    slot: int = 0

    @property
    def done(self) -> bool:
        return not self.failure and not lacking(self.run_dir.path)

    def progress(self) -> float:
        """The share of the run that is complete, in [0, 1), from its log."""
        try:
            last = tail(self.run_dir.metrics).splitlines()[-1]
            return 0.99 * file_readers.lines(last)[0]["progress"]  # the evaluation follows
        except (OSError, ValueError, KeyError, IndexError):
            return 0.0


def plan(sweep: Sweep, out: Path) -> list[Run]:
    """Every run of a sweep, seed by seed, with its directory below ``out``."""
    runs = []
    for seed in sweep.seeds:
        for row in sweep.rows:
            name = f"{row.slug}-seed-{seed}"
            run_dir = RunDirectory(out / "runs" / name)
            runs.append(
                Run(
                    row,
                    seed,
                    run_dir,
                    out / "recipes" / f"{name}.toml",
                    out / "logs" / f"{name}.log",
                )
            )
    return runs


def tail(path: Path) -> str:
    """The end of a text file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
        return file.read().decode("utf-8", errors="replace")
