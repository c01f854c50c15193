"""Errors of the user's input, as one message and exit code 2, and helpers for messages."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """The recipe, the data, an option or a plugin is at fault.

    The message names the file, table and key (or row), says what was expected and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


class NoFault(Exception):
    """An exception that passes through a plugin without being its fault.

    Another rank ended, a signal came, or parts may not write while a plan is made.
    """


class RecipeError(UserError):
    """All faults of a recipe or sweep together.

    Attributes:
        faults: one line each, with the file, table and key.
    """

    def __init__(self, faults: Sequence[str], kind: str = "recipe") -> None:
        self.faults = list(faults)
        number = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        head = f"the {kind} has {number}"
        super().__init__("\n".join([f"{head}:", *(f"  {fault}" for fault in self.faults)]))


def shown(value: object, limit: int = 80) -> str:
    """A value in a message, on one line of at most ``limit`` characters, whatever its ``repr``."""
    try:
        text = repr(value)
    except Exception:
        if isinstance(value, int):  # it has more digits than Python prints
            return f"a number of more than {sys.get_int_max_str_digits():,} digits"
        return f"a {type(value).__name__}"
    return clipped(text, limit)


def clipped(text: str, limit: int = 80) -> str:
    """A text in a message, shortened to ``limit`` characters, unprintable characters escaped."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return shortened(text, limit)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name: the most similar names, or all names."""
    known = sorted(known)
    if not known:
        return "there are none"
    if close := get_close_matches(name, known, n=3, cutoff=0.5):
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(known)


#: most characters of a plugin's message that our message repeats
LONGEST_MESSAGE = 500


def describe_error(error: BaseException) -> str:
    """The type and the message of an exception on one line, shortened if it is long."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error)[: 4 * LONGEST_MESSAGE].split())
    except Exception:  # the exception's own code may raise
        text = "(its message cannot be read)"
    return f"{kind}: {shortened(text)}" if text else kind


def shortened(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """A text of at most ``limit`` characters; one that is longer ends in dots."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
