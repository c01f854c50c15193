"""Errors of plugins, as one message that names the part and its distribution.

Every call of a plugin is made within :func:`plugin_errors`, and its result is checked with
:mod:`xraygan.parts.contracts`. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xraygan.errors import NoFault, UserError, describe_error

if TYPE_CHECKING:
    from .part_config import PartConfig


class BadAnswer(Exception):
    """A part returned an invalid result; the message continues the name of the called method."""


class Spoiling(BadAnswer):
    """A part changed networks, so that they must not be saved."""


class PluginFault(UserError):
    """A plugin is at fault; the message names it, its distribution and what it did.

    Attributes:
        spoilt: whether it changed networks, so that they must not be saved.
    """

    spoilt: bool = False


def is_own(choice: PartConfig | None) -> bool:
    """Whether a part comes with the toolkit, or is unknown."""
    return choice is None or choice.part.is_own


def plugin_fault(choice: PartConfig, reason: str) -> PluginFault:
    """A part's fault, in one line that names the part and its distribution."""
    part = choice.part
    return PluginFault(
        f"[{choice.table}]: the {part.kind} {part.name!r} of {part.origin}: {reason}"
    )


@contextmanager
def plugin_errors(choice: PartConfig | None, method: str) -> Iterator[None]:
    """Turn exceptions of a plugin within this context, also ``sys.exit()``, into its fault.

    Args:
        choice: the part that is called; None if it is unknown, and then exceptions pass.
        method: the called method for the message, such as ``"forward()"``.

    Raises:
        PluginFault: the part raised an exception, or its result is invalid (:class:`BadAnswer`).
            An exception of a built-in part is a defect of the toolkit, so it passes with its
            traceback.
    """
    try:
        yield
    except (UserError, NoFault, KeyboardInterrupt, GeneratorExit):
        raise
    except BadAnswer as error:
        if choice is None:
            raise
        fault = plugin_fault(choice, f"{method} {error}")
        fault.spoilt = isinstance(error, Spoiling)
        raise fault from error
    except BaseException as error:
        if choice is None or is_own(choice):
            raise
        raise plugin_fault(choice, f"{method} raised {describe_error(error)}") from error
