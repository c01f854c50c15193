"""The run directory: the files of a run, their paths, and how they are written."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch
from filelock import FileLock, Timeout

from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe
from xraygan.utils.atomic_files import building_name, write_atomically, write_json
from xraygan.utils.parsing import sha256
from xraygan.utils.precision import thread_settings

from . import file_readers

LOCK = ".lock"
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pillow", "safetensors")


class RunDirectory:
    """Paths and files of one run; see ``docs/run-directory.md`` for the layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluation = path / "evaluation.json"
        self.predictions = path / "predictions.csv"
        self.conditions = path / "conditions.csv"
        self.images = path / "images.safetensors"
        self.bootstrap = path / "bootstrap.csv"
        self.audit = path / "audit.json"
        self.audit_picture = path / "audit.png"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.log = path / "run.log"
        self.report = path / "report.html"
        self.lock = path / LOCK

    @property
    def split(self) -> str:
        """The split that ``evaluation.json`` measures: ``[evaluation] split`` of the recipe."""
        return self._recipe_value("evaluation", "split", "test")

    def of_split(self, split: str) -> RunDirectory:
        """The run with the evaluation files of another split: ``evaluation-SPLIT.json``.

        Args:
            split: or the name of an external test set.
        """
        other = RunDirectory(self.path)
        other.evaluation = self.path / f"evaluation-{split}.json"
        other.predictions = self.path / f"predictions-{split}.csv"
        other.bootstrap = self.path / f"bootstrap-{split}.csv"
        return other

    def check_validation_share(self, recipe: Recipe) -> None:
        """Check that a recipe sets aside the same validation images as the run did.

        Raises:
            UserError: the run was trained with another share of validation images.
        """
        trained = self._recipe_value("data", "validation", 0.0)
        share = recipe.tables.data.validation
        if share != trained:
            raise UserError(
                f"[data] validation: {self.path} was trained with {trained}. With {share}, images "
                "that it was trained on would be used for validation; leave the key unchanged"
            )

    def _recipe_value(self, table: str, key: str, default: Any) -> Any:
        """A value of the run's ``recipe.toml``; recipes of former versions may lack the key."""
        return self.read_recipe().get(table, {}).get(key, default)

    def read_recipe(self) -> dict[str, Any]:
        """The tables of ``recipe.toml``.

        Raises:
            UserError: it cannot be read.
        """
        remedy = "restore the recipe that the run wrote, or choose another run"
        try:
            return file_readers.needed(self.recipe, file_readers.recipe, remedy)
        except FileNotFoundError:
            raise UserError(f"{self.path}: not a run directory (it has no recipe.toml)") from None

    def read_evaluation(self) -> dict[str, Any]:
        """The content of ``evaluation.json``.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: it cannot be read.
        """
        remedy = f"write it again with `xraygan evaluate {self.path}`"
        return file_readers.needed(self.evaluation, file_readers.evaluation, remedy)

    def read_audit(self) -> dict[str, Any]:
        """The content of ``audit.json``.

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be read.
        """
        remedy = f"make it again with `xraygan audit {self.path}`"
        return file_readers.needed(self.audit, file_readers.audit, remedy)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run.

        Raises:
            UserError: the path is not a run directory.
        """
        run_directory = cls(path)
        if not run_directory.recipe.is_file():
            raise UserError(f"{path}: not a run directory (it has no recipe.toml)")
        return run_directory

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the run within this context.

        The operating system releases the lock when the process ends, however it ends.

        Raises:
            UserError: another process holds the lock, or the directory cannot be written.
        """
        created = [path for path in (self.path, *self.path.parents) if not path.exists()]
        lock = self._lock()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path} is being written by another process; wait until it ends, or choose "
                "another directory with --out DIR"
            ) from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            yield
        finally:
            if created and all(path.name == LOCK for path in self.path.iterdir()):
                shutil.rmtree(self.path)  # nothing was written
                with suppress(OSError):  # another run may have been created beside it
                    for path in created[1:]:
                        path.rmdir()
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process is writing the run now."""
        if not self.path.exists():
            return False
        try:
            with self._lock().acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _lock(self) -> FileLock:
        return FileLock(self.lock)

    def check_can_start(self, *, resume: bool) -> None:
        """Check that a new run can start in the directory, or that its run can be resumed.

        Raises:
            UserError: the directory holds a run that is not to be resumed, or other files.
        """
        if self.recipe.exists() and not resume:
            raise UserError(
                f"{self.path} already holds a run. Continue it with --resume, or choose another "
                "directory with --out DIR"
            )
        if self.log.exists() and not self.log.is_file():  # writing to a pipe would block
            raise UserError(f"{self.log}: not a regular file; move it away and start again")
        # A run that was killed at its very start leaves only these.
        leftovers = {LOCK, building_name(self.recipe)}
        if not self.recipe.exists() and any(p.name not in leftovers for p in self.path.glob("*")):
            raise UserError(
                f"{self.path} is not empty and holds no run; choose another directory with "
                "--out DIR"
            )

    def create(self, recipe: Recipe) -> None:
        """Create the directory, its recipe and its folders, where they are missing.

        Raises:
            UserError: a file or folder cannot be written.
        """
        try:
            # The recipe first: a folder that holds other files and no recipe is no run.
            if not self.recipe.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                write_atomically(self.recipe, tomli_w.dumps(recipe.resolved()))
            # Resumed runs need this too: some archives and cloud disks drop empty folders.
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error

    def write_environment(
        self, recipe: Recipe, device: torch.device, data: dict, ranks: int = 1
    ) -> None:
        """Write ``environment.json``: all that decides a result's bits besides the recipe."""
        write_json(self.environment, current_environment(recipe, device, data, ranks))

    def keep_metrics_until(self, step: int) -> None:
        """Remove the logged lines after a step, since a resumed run writes them again."""
        lines = [line for line in self.read_metrics() if line["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The objects of ``metrics.jsonl``; a last line that a crash cut short is left out.

        Raises:
            UserError: another line cannot be read.
        """
        remedy = "restore the line, or delete it"
        try:
            return file_readers.needed(self.metrics, file_readers.lines, remedy)
        except FileNotFoundError:
            return []

    def best_step(self) -> int | None:
        """The best step so far by ``[run] keep_best``, from ``metrics.jsonl``; None if unknown."""
        return line["step"] if (line := self._best_line()) else None

    def best_split(self, step: int) -> str | None:
        """The split on which a step was the best so far; None if the log does not say so."""
        line = self._best_line(step)
        # Former versions measured the test images without naming the split.
        return str(line.get("split", "test")) if line else None

    def _best_line(self, step: int | None = None) -> dict[str, Any] | None:
        # A long log is parsed only if it has such a line.
        if self.metrics.is_file() and b'"best": true' in self.metrics.read_bytes():
            best = [line for line in self.read_metrics() if line.get("best") is True]
            return next((line for line in reversed(best) if step in (None, line["step"])), None)
        return None

    def append_metrics(self, content: Mapping[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def current_environment(
    recipe: Recipe, device: torch.device, data: dict, ranks: int
) -> dict[str, Any]:
    """The content of ``environment.json``: all that decides a result's bits besides the recipe.

    Args:
        data: the summary of the dataset.
        ranks: processes that train the run together.
    """
    parts = {t: f"{c.part.name} ({c.part.origin})" for t, c in recipe.choices.items()}
    return {
        "xraygan": version("xraygan"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in PACKAGES},
        "device": device_name(device),
        "ranks": ranks,
        **thread_settings(),
        "seed": recipe.tables.run.seed,
        "git": git_revision(),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "dataset": {"plugin": recipe.choices["data"].part.name, **data},
        "plugins": parts,
        "files": {k: sha256(path) for k, path in recipe.files().items() if path.is_file()},
    }


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def git_revision() -> str | None:
    """The git revision of the toolkit's checkout, "-dirty" if it has changes; None for a wheel."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
