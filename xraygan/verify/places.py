"""Where the images of a study and of its runs are now, which a reviewer has elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xraygan.recipe.files import parse_override
from xraygan.study.pool import FILTERED, GENERATED

#: the file that makes a folder a study
STUDY = "utility.json"
#: the folders of a study with runs
PARTS = ("choice", "test")
#: key of ``--set`` that says where generated images are
GENERATED_ROOT = "data.generated.root"


class Place(NamedTuple):
    """Generated images: the table of their labels, and the folder that its paths begin in."""

    table: Path
    root: Path


def of_study(sweep: Path) -> bool:
    """Whether a folder has the runs of a utility study, which makes its own tables of them."""
    return sweep.name in PARTS and (sweep.parent / STUDY).is_file()


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


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
