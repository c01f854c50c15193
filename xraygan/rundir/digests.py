"""Digests of a run's files, by which a reader detects files that were changed or exchanged later.

``evaluation.json`` records those of the files that were written with it and of the manifest of the
measured checkpoint; ``finished`` in ``environment.json`` those of the recipe, the log and the
manifest of the last checkpoint. A manifest holds the digests of the checkpoint's own files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from xraygan.utils.parsing import sha256

from .directory import RunDirectory

#: key of the recorded digests: path below the run directory -> sha256
KEY = "sha256"


def manifest_path(run_dir: RunDirectory, step: int) -> Path:
    """The path of the manifest of a step's checkpoint."""
    return run_dir.checkpoints / f"step-{step:08d}" / "manifest.json"


def digests_of_run(run_dir: RunDirectory, step: int) -> dict[str, str]:
    """The digests of the files that do not change after the end of a run, where they exist."""
    return _digests(run_dir, (run_dir.recipe, run_dir.metrics, manifest_path(run_dir, step)))


def digests_of_evaluation(
    run_dir: RunDirectory, step: int, contents: Mapping[Path, bytes]
) -> dict[str, str]:
    """The digests of the files of an evaluation, and of the manifest of its checkpoint.

    Args:
        step: the step of the measured checkpoint.
        contents: the files that are written with ``evaluation.json``.
    """
    written = {path.name: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    return written | _digests(run_dir, (manifest_path(run_dir, step),))


def _digests(run_dir: RunDirectory, paths: tuple[Path, ...]) -> dict[str, str]:
    return {
        path.relative_to(run_dir.path).as_posix(): sha256(path) for path in paths if path.is_file()
    }
