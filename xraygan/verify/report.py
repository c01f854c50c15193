"""What a check found: one line for each thing that holds, differs, or was not checked."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from xraygan._version import __version__
from xraygan.errors import clipped

#: most characters of a value or a reason in a line
LONGEST = 300
#: most differences of one file that are listed one by one
MOST = 5
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Outcome(StrEnum):
    """What became of a check."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOTE = "note"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        where: the file or folder below the verified folder, and the key, row or line in it.
        text: what was checked, or why it was not.
        expected: the expected value; None unless the outcome is a difference of two values.
        found: the value that was found.
    """

    outcome: Outcome
    where: str
    text: str
    expected: Any = None
    found: Any = None

    def line(self) -> str:
        """The finding on one line, whatever a verified file holds."""
        text = f"{self.outcome:<11}  {self.where}: {clipped(self.text, LONGEST)}"
        if self.expected is not None or self.found is not None:
            expected, found = (_shown(value) for value in (self.expected, self.found))
            text += f": expected {expected}, found {found}"
        # A line break in a cell could write a line of its own here, and other codes hide one.
        return _CONTROL.sub(lambda code: repr(code[0])[1:-1], text)


def _shown(value: Any) -> str:
    return "nothing" if value is None else clipped(str(value), LONGEST)


@dataclass
class Report:
    """All findings about a folder, in the order in which they were made.

    Args:
        folder: the verified folder.
    """

    folder: Path
    findings: list[Finding] = field(default_factory=list)

    def holds(self, where: Path | str, text: str) -> None:
        """Record that something is as it should be."""
        self._add(Outcome.HOLDS, where, text)

    def differs(
        self, where: Path | str, text: str, expected: Any = None, found: Any = None
    ) -> None:
        """Record that something is not as it should be."""
        self._add(Outcome.DIFFERS, where, text, expected, found)

    def note(self, where: Path | str, text: str) -> None:
        """Record what a reader should know and what is no fault."""
        self._add(Outcome.NOTE, where, text)

    def unchecked(self, where: Path | str, text: str) -> None:
        """Record what was not checked, and why."""
        self._add(Outcome.UNCHECKED, where, text)

    def check(self, where: Path | str, text: str, expected: Any, found: Any) -> None:
        """Record whether two values are equal."""
        if expected == found:
            self.holds(where, text)
        else:
            self.differs(where, text, expected, found)

    def all_differ(
        self, where: Path, text: str, pairs: list[tuple[str, Any, Any]], holds: str
    ) -> None:
        """Record the differences of a file, the first of them one by one.

        Args:
            text: what the values should be.
            pairs: of each difference its key, row or line, the expected and the found value.
            holds: what to record without differences.
        """
        if not pairs:
            self.holds(where, holds)
        name = self.name(where)
        for key, expected, found in pairs[:MOST]:
            self.differs(f"{name}: {key}", text, expected, found)
        if more := len(pairs) - MOST if len(pairs) > MOST else 0:
            self.differs(name, f"{more} more {'value' if more == 1 else 'values'}, {text}")

    def name(self, where: Path | str) -> str:
        """A path below the verified folder, as it is printed."""
        if isinstance(where, str):
            return where
        relative = where.relative_to(self.folder).as_posix()
        return "." if relative == "." else relative

    def count(self, outcome: Outcome) -> int:
        """How many findings have an outcome."""
        return Counter(finding.outcome for finding in self.findings)[outcome]

    @property
    def all_hold(self) -> bool:
        """Whether nothing differs."""
        return not self.count(Outcome.DIFFERS)

    def content(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "xraygan": __version__,
            "folder": str(self.folder),
            "holds": self.all_hold,
            "counts": {outcome.value: self.count(outcome) for outcome in Outcome},
            "findings": [
                {
                    "outcome": finding.outcome.value,
                    "where": finding.where,
                    "text": finding.text,
                    "expected": _json(finding.expected),
                    "found": _json(finding.found),
                }
                for finding in self.findings
            ],
        }

    def _add(
        self,
        outcome: Outcome,
        where: Path | str,
        text: str,
        expected: Any = None,
        found: Any = None,
    ) -> None:
        self.findings.append(Finding(outcome, self.name(where), text, expected, found))


def _json(value: Any) -> Any:
    number = isinstance(value, float) and not math.isfinite(value)
    plain = isinstance(value, str | int | float | bool | None) and not number
    return value if plain else str(value)
