"""The names of external test sets, and the files of a run that hold their figures."""

from __future__ import annotations

import re
from pathlib import Path

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.errors import UserError
from xraygan.utils.naming import word_fault

#: the end of the name of a file that a lengthened run keeps of its shorter self
_KEPT = re.compile(r"(?:^|-)step-\d{8}$")


def check_external_name(name: str) -> None:
    """Check that files of a run can have the name of an external test set.

    Raises:
        UserError: they cannot.
    """
    fault = word_fault(name)
    if name in SPLIT_NAMES:
        fault = "is the name of a split of the run"
    elif _KEPT.search(name):
        fault = "ends as the files of an earlier step do"
    if fault:
        raise UserError(f"--external {name!r}: the name {fault}; choose another, such as nih")


def external_names(directory: Path) -> list[str]:
    """The external test sets that a run was measured on, in the order of their names."""
    names = (path.stem.removeprefix("evaluation-") for path in directory.glob("evaluation-*.json"))
    return sorted(name for name in names if name not in SPLIT_NAMES and not _KEPT.search(name))
