"""The run directory: what a run leaves behind, and where."""

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

from . import file_readers as parsing

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
        """The split that ``evaluation.json`` is of: ``[evaluation] split`` of the run's recipe."""
        return self._word("evaluation", "split", "test")

    def of_split(self, split: str) -> RunDirectory:
        """The run with the files of figures that another split has: ``evaluation-SPLIT.json``."""
        other = RunDirectory(self.path)
        other.evaluation = self.path / f"evaluation-{split}.json"
        other.predictions = self.path / f"predictions-{split}.csv"
        other.bootstrap = self.path / f"bootstrap-{split}.csv"
        return other

    def check_validation(self, recipe: Recipe) -> None:
        """Hold that a recipe's validation images are those that the run set aside.

        Raises:
            UserError: the run was trained with another share of validation images.
        """
        trained, asked = self._word("data", "validation", 0.0), recipe.tables.data.validation
        if asked != trained:
            raise UserError(
                f"[data] validation: {self.path} was trained with {trained}, and {asked} would "
                "take images for validation that it was trained on; leave the key as it was"
            )

    def _word(self, table: str, key: str, default: Any) -> Any:
        """A value of the run's recipe as it was written; runs of former versions may lack it."""
        return self.read_recipe().get(table, {}).get(key, default)

    def read_recipe(self) -> dict[str, Any]:
        """The tables of ``recipe.toml``.

        Raises:
            UserError: it cannot be read.
        """
        remedy = "put back the recipe as the run wrote it, or choose another run"
        try:
            return parsing.needed(self.recipe, parsing.recipe, remedy)
        except FileNotFoundError:
            raise UserError(f"{self.path}: not a run directory (it has no recipe.toml)") from None

    def read_evaluation(self) -> dict[str, Any]:
        """The content of ``evaluation.json``.

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be read.
        """
        remedy = f"write it again with `xraygan evaluate {self.path}`"
        return parsing.needed(self.evaluation, parsing.evaluation, remedy)

    def read_audit(self) -> dict[str, Any]:
        """The content of ``audit.json``.

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be read.
        """
        remedy = f"make it again with `xraygan audit {self.path}`"
        return parsing.needed(self.audit, parsing.audit, remedy)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            UserError: it is none.
        """
        found = cls(path)
        if not found.recipe.is_file():
            raise UserError(f"{path}: not a run directory (it has no recipe.toml)")
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it no other process can write the run.

        The operating system gives the lock back when the process ends, however it ends.

        Raises:
            UserError: another process holds it, or the directory cannot be written.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        lock = self._lock()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path} is being written by another process; wait for it, or choose another "
                "directory with --out DIR"
            ) from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            yield
        finally:
            if made and all(path.name == LOCK for path in self.path.iterdir()):
                shutil.rmtree(self.path)  # nothing was begun
                with suppress(OSError):  # another run may have begun beside it
                    for path in made[1:]:
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

    def check(self, *, resume: bool) -> None:
        """Hold that a run can begin here, or that there is one to go on.

        Raises:
            UserError: there is another run, a run that was not to be resumed, or something else.
        """
        if self.recipe.exists() and not resume:
            raise UserError(
                f"{self.path} already holds a run. Continue it with --resume, or choose another "
                "directory with --out DIR"
            )
        if self.log.exists() and not self.log.is_file():  # a pipe would be waited for
            raise UserError(f"{self.log}: not a regular file; move it away, and the run goes on")
        # A run that was killed at its very beginning leaves no more than these.
        begun = {LOCK, building_name(self.recipe)}
        if not self.recipe.exists() and any(p.name not in begun for p in self.path.glob("*")):
            raise UserError(
                f"{self.path} is not empty and holds no run; choose another directory with "
                "--out DIR"
            )

    def begin(self, recipe: Recipe) -> None:
        """Make the directory and what is missing in it; the recipe of a run that it holds stays.

        Raises:
            UserError: it cannot be written.
        """
        try:
            # First: a folder that holds anything else and no recipe is not taken for a run.
            if not self.recipe.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                write_atomically(self.recipe, tomli_w.dumps(recipe.resolved()))
            # Also of a run that is resumed: some archives and cloud disks drop empty folders.
            self.samples.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error

    def write_environment(
        self, recipe: Recipe, device: torch.device, data: dict, ranks: int = 1
    ) -> None:
        """Write ``environment.json``: what besides the recipe decides the result's bits."""
        write_json(self.environment, environment(recipe, device, data, ranks))

    def keep_metrics_until(self, step: int) -> None:
        """Drop the logged lines after a step, which a resumed run will write again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The objects of ``metrics.jsonl``; a last line cut short by a crash is left out.

        Raises:
            UserError: another line cannot be read, so that the log would be lost from there on.
        """
        remedy = "put back the line as it was, or delete it"
        try:
            return parsing.needed(self.metrics, parsing.lines, remedy)
        except FileNotFoundError:
            return []

    def best_step(self) -> int | None:
        """The step that ``metrics.jsonl`` says is the best so far by ``[run] keep_best``."""
        return found["step"] if (found := self._best_line()) else None

    def best_split(self, step: int) -> str | None:
        """The split by whose figures a step was the best so far; None if it was not, or no log says
        so."""
        found = self._best_line(step)
        # Former versions measured the test images, and did not say so.
        return str(found.get("split", "test")) if found else None

    def _best_line(self, step: int | None = None) -> dict[str, Any] | None:
        # A long log is parsed only if there is such a line.
        if self.metrics.is_file() and b'"best": true' in self.metrics.read_bytes():
            lines = [line for line in self.read_metrics() if line.get("best") is True]
            return next((n for n in reversed(lines) if step in (None, n["step"])), None)
        return None

    def append_metrics(self, content: Mapping[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def environment(recipe: Recipe, device: torch.device, data: dict, ranks: int) -> dict[str, Any]:
    """What besides the recipe decides a result's bits: the content of ``environment.json``.

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
    """The device as a reader knows it: the GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def git_revision() -> str | None:
    """The revision of the toolkit's checkout, "-dirty" if it has changes; None for a wheel."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def flat(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by their dotted keys."""
    for key, value in tree.items():
        name = f"{at}.{key}" if at else key
        if isinstance(value, dict):
            yield from flat(value, name)
        else:
            yield name, value
