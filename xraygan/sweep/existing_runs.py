"""Check that runs which exist in a sweep's folder are the runs that the sweep requests."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe
from xraygan.rundir.completion import lacking
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.provenance import material_changes, trained_on
from xraygan.training.warm_start import pin_start

from .plan import Run

#: most keys that a message shows of each run
SHOWN = 5
#: what to do about runs that differ, for the command that has these options
REMEDY = (
    "Use --redo to delete and run exactly these again, give the same --set as before, or choose "
    "another folder with --out"
)

#: key -> its value in the existing run, and in the requested run
Changes = dict[str, tuple[Any, Any]]


def run_changes(run_dir: RunDirectory, recipe: Recipe) -> Changes:
    """The keys in which an existing run differs from a recipe; empty if it is a run of the recipe.

    The evaluation of a finished run is compared too: ``xraygan evaluate`` can measure another
    checkpoint, or with other keys (``--set``).

    Raises:
        UserError: the folder holds an evaluation without a recipe.
    """
    if not run_dir.recipe.exists():
        if run_dir.evaluation.exists():
            raise UserError(
                f"{run_dir.path}: it has an evaluation.json but no recipe.toml, so it is not known "
                "which run this is; move it away, or choose another --out"
            )
        return {}
    changes = material_changes(run_dir, pin_start(recipe, run_dir))
    return changes or _evaluation_changes(run_dir)


def _evaluation_changes(run_dir: RunDirectory) -> Changes:
    """How the evaluation of a run differs from the one at the end of its training.

    Empty for an incomplete run, which will be resumed and measured.
    """
    if lacking(run_dir.path):
        return {}
    try:
        evaluation = run_dir.read_evaluation()
    except FileNotFoundError:
        return {}
    step, protocol = evaluation.get("step"), evaluation.get("protocol", {})
    changed, measured = protocol.get("changed", {}), protocol.get("fingerprint")
    last = max((line["step"] for line in run_dir.read_metrics()), default=step)
    changes: Changes = {key: (value, "the run's") for key, value in changed.items()}
    if step != last:
        changes["the evaluated step"] = (step, last)
    trained = trained_on(run_dir)
    if measured and trained and measured != trained:
        changes["the fingerprint of the data"] = (measured, trained)
    return changes


def refuse_changed(changed: Sequence[tuple[Run, Changes]], remedy: str = REMEDY) -> None:
    """Raise an error that names the existing runs which differ from the requested ones.

    Args:
        remedy: what to do, a sentence without its full stop.

    Raises:
        UserError: there is such a run.
    """
    if not changed:
        return
    lines = []
    for run, changes in changed:
        lines += [f"  {run.run_dir.path}", *describe_changes(changes)]
    single = len(changed) == 1
    raise UserError(
        f"{len(changed)} {'run' if single else 'runs'} of an earlier sweep "
        f"{'has' if single else 'have'} another recipe or evaluation than requested:\n"
        + "\n".join([*lines, remedy])
    )


def describe_changes(changes: Changes) -> list[str]:
    """A line for each key, with both values; at most :data:`SHOWN`."""
    lines = [
        f"    {key}: {_or_unset(old)} there, {_or_unset(new)} requested"
        for key, (old, new) in list(changes.items())[:SHOWN]
    ]
    more = len(changes) - SHOWN
    return lines + ([f"    and {more} more keys"] if more > 0 else [])


def _or_unset(value: Any) -> str:
    return "unset" if value is None else str(value)


def delete_run(run_dir: RunDirectory) -> None:
    """Delete a run, its recipe last, so that an interrupted deletion leaves no complete run.

    Raises:
        UserError: another process is writing the run, or it cannot be deleted.
    """
    with run_dir.locked():
        try:
            run_dir.evaluation.unlink(missing_ok=True)
            for path in sorted(run_dir.path.iterdir()):
                if path not in (run_dir.recipe, run_dir.lock):
                    _delete(path)
            run_dir.recipe.unlink()
        except OSError as error:
            raise UserError(f"{run_dir.path}: cannot be deleted ({error.strerror})") from error


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
