"""A part that a recipe chose, with its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .registry import Part


@dataclass(frozen=True)
class Choice:
    """One part that a recipe chose.

    Attributes:
        table: where the recipe names it, for example ``"scores.gram"``.
        words: the table as the core reads it (weight, trains, optimizer).
        options: the part's options, checked, defaults included.
    """

    table: str
    part: Part
    words: Any
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The last part of the table's name: how terms and networks are called."""
        return self.table.rpartition(".")[2]
