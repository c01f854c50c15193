"""What goes wrong by the user's hand, said in one message and exit code 2."""

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
    """What passes through a plugin and is nobody's fault: another rank ended, or a plan may not
    write."""


class RecipeError(UserError):
    """Every fault that was found in a recipe or sweep, together.

    Attributes:
        faults: one line each, with the file, table and key that it is about.
    """

    def __init__(self, faults: Sequence[str], what: str = "recipe") -> None:
        self.faults = list(faults)
        many = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        head = f"the {what} has {many}"
        super().__init__("\n".join([f"{head}:", *(f"  {fault}" for fault in self.faults)]))


def shown(value: object, most: int = 80) -> str:
    """A value in a message, in one short line, whatever its ``repr`` does."""
    try:
        text = repr(value)
    except Exception:
        if isinstance(value, int):  # one of more digits than Python writes
            return f"a number of more than {sys.get_int_max_str_digits():,} digits"
        return f"a {type(value).__name__}"
    return clipped(text, most)


def clipped(text: str, most: int = 80) -> str:
    """A text in a message, cut short, with controls and what cannot be printed escaped."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that ends a message about an unknown name: the nearest names, or all of them."""
    known = sorted(known)
    if not known:
        return "there are none"
    if close := get_close_matches(name, known, n=3, cutoff=0.5):
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(known)


#: letters of what a plugin says that a message repeats
MOST = 500


def describe_error(error: BaseException) -> str:
    """An exception as one line: its type and message, cut short if that is long."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error)[: 4 * MOST].split())
    except Exception:  # it is the exception's own code that makes the text
        text = "(its message cannot be read)"
    return f"{kind}: {cut(text)}" if text else kind


def cut(text: str, most: int = MOST) -> str:
    """A text, cut short if it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
