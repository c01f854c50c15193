"""Where the images of a study and of its runs are now, which a reviewer has elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xraygan.recipe.files import parse_override
from xraygan.study.design import STAGES
from xraygan.study.pool import FILTERED, GENERATED
from xraygan.study.record import ASKED

#: the file of a study's results
STUDY = "utility.json"
#: key of ``--set`` that says where generated images are
GENERATED_ROOT = "data.generated.root"


class Place(NamedTuple):
    """Generated images: the table of their labels, and the folder that its paths begin in."""

    table: Path
    root: Path


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a utility study, finished or not."""
    return any((folder / name).is_file() for name in (STUDY, ASKED))


def of_study(sweep: Path) -> bool:
    """Whether a folder has the runs of a utility study, which makes its own tables of them."""
    return sweep.name in STAGES and is_study(sweep.parent)


def study_of(run: Path) -> Path | None:
    """The folder of the study that a run belongs to; None if it belongs to none."""
    sweep = run.parent.parent
    return sweep.parent if run.parent.name == "runs" and of_study(sweep) else None


def without_generated(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that every recipe can have."""
    return tuple(one for one in overrides if _key(one) != GENERATED_ROOT)


def generated_place(recorded: Place, study: Path | None, overrides: Sequence[str]) -> Place:
    """Where generated images are now.

    Tables and images that a study made are in its folder, wherever that is. Other images are where
    an override says, or else where they were.

    Args:
        recorded: where they were.
        study: the study's folder, for images of a study.
        overrides: ``--set`` of the command.
    """
    table, root = recorded
    given = [parse_override(one)[1] for one in overrides if _key(one) == GENERATED_ROOT]
    if given:
        root = Path(str(given[-1]))
        if (root / table.name).is_file():
            table = root / table.name
    if study is not None:
        if recorded.root.name == GENERATED and (study / GENERATED).is_dir():
            root = study / GENERATED
        own = study / recorded.table.parent.name / recorded.table.name
        if recorded.table.parent.name in (GENERATED, FILTERED) and own.is_file():
            table = own
    return Place(table, root)


def same_place(first: Path, second: Path) -> bool:
    """Whether two paths may be of one file or folder: one may be relative to where a command ran,
    and one may lead over links."""
    if first.is_absolute() and second.is_absolute():
        return first == second or first.resolve() == second.resolve()
    short, long = sorted((first, second), key=Path.is_absolute)
    end = tuple(part for part in Path(os.path.normpath(short)).parts if part != "..")
    return long.parts[len(long.parts) - len(end) :] == end


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
