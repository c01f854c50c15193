"""Whether what lies in a run's place is the run that the sweep asks for."""

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
from xraygan.training.starting import pin_start

from .plan import Run

#: keys shown of each run that differs
SHOWN = 5

#: key -> its value in the run that is there, and in the one that is asked for
Changes = dict[str, tuple[Any, Any]]


def differing(place: RunDirectory, recipe: Recipe) -> Changes:
    """The keys in which a run that was begun differs from a recipe; empty if it is that run.

    A finished run counts as the recipe's only if it was measured as the recipe says, too:
    ``xraygan evaluate`` can measure another checkpoint, or with other keys (``--set``).

    Raises:
        UserError: there is something that cannot be told from a run.
    """
    if not place.recipe.exists():
        if place.evaluation.exists():
            raise UserError(
                f"{place.path}: it has an evaluation.json and no recipe.toml, so nobody can tell "
                "which run this is; move it away, or choose another --out"
            )
        return {}
    changes = material_changes(place, pin_start(recipe, place))
    return changes or _measured_otherwise(place)


def _measured_otherwise(place: RunDirectory) -> Changes:
    """How the evaluation of a run differs from the one that ended its training; a run that is not
    done is resumed, which measures it."""
    if lacking(place.path):
        return {}
    try:
        found = place.read_evaluation()
    except FileNotFoundError:
        return {}
    step, protocol = found.get("step"), found.get("protocol", {})
    changed, measured = protocol.get("changed", {}), protocol.get("fingerprint")
    last = max((line["step"] for line in place.read_metrics()), default=step)
    changes: Changes = {key: (now, "as the run") for key, now in changed.items()}
    if step != last:
        changes["the evaluated step"] = (step, last)
    trained = trained_on(place)
    if measured and trained and measured != trained:
        changes["the fingerprint of the data"] = (measured, trained)
    return changes


def refuse_others(differ: Sequence[tuple[Run, Changes]]) -> None:
    """Say which runs are not those that were asked for.

    Raises:
        UserError: there is one.
    """
    if not differ:
        return
    lines = []
    for run, changes in differ:
        lines.append(f"  {run.place.path}")
        lines += [
            f"    {key}: {_show(there)} there, {_show(now)} asked for"
            for key, (there, now) in list(changes.items())[:SHOWN]
        ]
        if len(changes) > SHOWN:
            lines.append(f"    and {len(changes) - SHOWN} more keys")
    one = len(differ) == 1
    raise UserError(
        f"{len(differ)} {'run' if one else 'runs'} of an earlier sweep "
        f"{'has' if one else 'have'} another recipe or evaluation than the one asked for:\n"
        + "\n".join(lines)
        + "\nUse --redo to delete and run exactly these again, give the same --set as before, or "
        "choose another folder with --out"
    )


def _show(value: Any) -> str:
    return "unset" if value is None else str(value)


def remove(place: RunDirectory) -> None:
    """Delete a run, its recipe last: what is left of an interrupted deletion is not taken for done.

    Raises:
        UserError: another process is writing it, or it cannot be deleted.
    """
    with place.locked():
        try:
            place.evaluation.unlink(missing_ok=True)
            for path in sorted(place.path.iterdir()):
                if path not in (place.recipe, place.lock):
                    _delete(path)
            place.recipe.unlink()
        except OSError as error:
            raise UserError(f"{place.path}: cannot be deleted ({error.strerror})") from error


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
