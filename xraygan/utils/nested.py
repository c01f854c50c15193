"""Nested tables as flat ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten_tables(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by their dotted keys; an empty table has none."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            values |= flatten_tables(value, name)
        else:
            values[name] = value
    return values
