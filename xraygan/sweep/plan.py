"""The runs of a sweep: one for each row and seed, and where each stands."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from xraygan.rundir import file_readers as parsing
from xraygan.rundir.completion import lacking
from xraygan.rundir.directory import RunDirectory

from .file import Row, Sweep

TAIL = 8192  # bytes of a file's end that are read


@dataclass
class Run:
    """One row with one seed.

    Attributes:
        failure: why it failed, empty otherwise.
        code: its exit code, once it has ended.
    """

    row: Row
    seed: int
    place: RunDirectory
    recipe: Path
    log: Path
    failure: str = ""
    code: int | None = None
    process: subprocess.Popen | None = field(default=None, repr=False)
    slot: int = 0

    @property
    def done(self) -> bool:
        return not self.failure and not lacking(self.place.path)

    def progress(self) -> float:
        """How much of it is done, in [0, 1), as its log says."""
        try:
            last = tail(self.place.metrics).splitlines()[-1]
            return 0.99 * parsing.lines(last)[0]["progress"]  # the rest is its evaluation
        except (OSError, ValueError, KeyError, IndexError):
            return 0.0


def plan(sweep: Sweep, out: Path) -> list[Run]:
    """Every run of a sweep, seed by seed, with its place below ``out``."""
    runs = []
    for seed in sweep.seeds:
        for row in sweep.rows:
            name = f"{row.slug}-seed-{seed}"
            place = RunDirectory(out / "runs" / name)
            runs.append(
                Run(
                    row, seed, place, out / "recipes" / f"{name}.toml", out / "logs" / f"{name}.log"
                )
            )
    return runs


def tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
        return file.read().decode("utf-8", errors="replace")
