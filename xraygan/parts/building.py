"""An instance of a part that a recipe chose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from xraygan.errors import UserError
from xraygan.utils.planning import Blocked
from xraygan.utils.seeding import derive_seed

from .choice import Choice
from .options import allows_literal, options_of, takes_positional
from .plugin_errors import PluginFault, asking


def from_random(choice: Choice) -> Choice:
    """The same choice without the file or download that its network would start from."""
    option = options_of(choice.part.cls).get("weights")
    if option is None or not allows_literal(option.type, "random"):
        return choice
    return replace(choice, options={**choice.options, "weights": "random"})


def build(choice: Choice, *positional: Any, seed: int = 0) -> Any:
    """An instance of a chosen part.

    ``positional`` is what the core gives to its kind, if its constructor takes any.

    Raises:
        UserError: its constructor refused; the message names the recipe's table.
    """
    torch.manual_seed(derive_seed(seed, "init", choice.table))
    given = positional if takes_positional(choice.part.cls) else ()
    try:
        with asking(choice, "its constructor"):
            return choice.part.cls(*given, **choice.options)
    except PluginFault:
        raise
    except UserError as error:
        raise UserError(f"[{choice.table}]: {error}") from error
    except Blocked as error:
        raise Blocked(
            f"[{choice.table}]: the plugin {choice.part.name!r} of {choice.part.origin} cannot be "
            f"built here: {error}"
        ) from error
