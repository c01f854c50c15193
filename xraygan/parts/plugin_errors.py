"""What parts do that they must not, said in one message that names the part and its distribution.

Whoever calls a plugin does so within :func:`asking`, and holds what it answers to its contract with
:mod:`xraygan.parts.contracts`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xraygan.errors import NoFault, UserError, describe_error

if TYPE_CHECKING:
    from xraygan.parts.choice import Choice


class BadAnswer(Exception):
    """A part answered what it must not; the message goes on from the name of what was asked."""


class Spoiling(BadAnswer):
    """A part changed networks, so that they must not be saved."""


class PluginFault(UserError):
    """A plugin is at fault; the message names it, its distribution and what it did.

    Attributes:
        spoilt: whether it changed networks, so that they must not be saved.
    """

    spoilt: bool = False


def is_own(choice: Choice | None) -> bool:
    """Whether a part comes with the toolkit (or nobody knows where it comes from)."""
    return choice is None or choice.part.is_own


def plugin_fault(choice: Choice, what: str) -> PluginFault:
    """A part's fault, in one line that names it and its distribution."""
    part = choice.part
    return PluginFault(f"[{choice.table}]: the {part.kind} {part.name!r} of {part.origin}: {what}")


@contextmanager
def asking(choice: Choice | None, what: str) -> Iterator[None]:
    """Within it a plugin is asked for something; what it raises, ``sys.exit()`` too, is its fault.

    Args:
        choice: the part that is asked; None if nobody knows, and whatever is raised passes.
        what: what it is asked for, such as ``"forward()"``.

    Raises:
        PluginFault: the part raised something, or its answer was refused (:class:`BadAnswer`). What
            a built-in one raises is ours to mend: it passes, and its traceback is seen.
    """
    try:
        yield
    except (UserError, NoFault, KeyboardInterrupt, GeneratorExit):
        raise
    except BadAnswer as error:
        if choice is None:
            raise
        fault = plugin_fault(choice, f"{what} {error}")
        fault.spoilt = isinstance(error, Spoiling)
        raise fault from error
    except BaseException as error:
        if choice is None or is_own(choice):
            raise
        raise plugin_fault(choice, f"{what} raised {describe_error(error)}") from error
