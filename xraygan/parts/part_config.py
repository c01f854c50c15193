"""A part that a recipe names, with its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .registry import Part


@dataclass(frozen=True)
class PartConfig:
    """One part that a recipe names.

    Attributes:
        table: the recipe's table, for example ``"scores.gram"``.
        config: the keys of the table that the core reads (weight, trains, optimizer).
        options: the part's own options, checked, with defaults.
    """

    table: str
    part: Part
    config: Any
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The last part of the table's name, which is the name of its term or network."""
        return self.table.rpartition(".")[2]
