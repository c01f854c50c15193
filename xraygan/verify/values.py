"""Values that were computed again, compared with those of a file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

Pairs = list[tuple[str, Any, Any]]


class Tolerance(NamedTuple):
    """How far values may differ, relative to 1 or to the value if it is larger.

    Attributes:
        figures: those of ``evaluation.json``.
        rows: those of ``predictions.csv`` and ``bootstrap.csv``, of single images and resamples.
    """

    figures: float
    rows: float


#: on another machine; measured, see docs/howto/verify.md
ELSEWHERE, ELSEWHERE_REDUCED = Tolerance(1e-3, 1e-3), Tolerance(2e-2, 1e-1)
SAME_MACHINE = Tolerance(0.0, 0.0)


def elsewhere(precision: str, devices: Iterable[str | None]) -> Tolerance:
    """How far values may differ on another machine.

    Args:
        precision: ``run.precision`` of the recipe.
        devices: the names of the devices there and here.
    """
    processors = all(str(name).startswith("cpu") for name in devices)
    full = precision == "fp32" or (precision == "auto" and processors)
    return ELSEWHERE if full else ELSEWHERE_REDUCED


def compare_values(
    there: Any, now: Any, allowed: float, *, strict: bool = False
) -> tuple[Pairs, float]:
    """Compare two contents of JSON, numbers within a tolerance.

    Args:
        allowed: how far numbers may differ, relative to 1 or to the value if it is larger.
        strict: whether a key of one side alone is a difference; versions add keys.

    Returns:
        The differences beyond what is allowed: key, value now, value there. And the largest
        relative difference of numbers.
    """
    pairs: Pairs = []
    largest = 0.0

    def walk(key: str, old: Any, new: Any) -> None:
        nonlocal largest
        if isinstance(old, dict) and isinstance(new, dict):
            for name in dict.fromkeys((*new, *old)):
                where = f"{key}.{name}" if key else name
                if name in old and name in new:
                    walk(where, old[name], new[name])
                elif strict:
                    pairs.append((where, new.get(name), old.get(name)))
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for i, (first, second) in enumerate(zip(old, new, strict=True)):
                walk(f"{key}[{i}]", first, second)
        elif _is_number(old) and _is_number(new):
            difference = relative(old, new)
            largest = max(largest, difference)
            if difference > allowed:
                pairs.append((key, new, old))
        elif old != new:
            pairs.append((key, new, old))

    walk("", there, now)
    return pairs, largest


def relative(first: float, second: float) -> float:
    """The difference of two numbers, relative to 1 or to the larger of them; 0 for two NaN."""
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    difference = abs(first - second) / max(1.0, abs(first), abs(second))
    return math.inf if math.isnan(difference) else difference


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def within(largest: float) -> str:
    """The largest relative difference, in words."""
    return f"values differ by {largest:.1e} at most" if largest else "the same values"
