"""Instances of the parts that a recipe names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from xraygan.errors import UserError
from xraygan.utils.planning import Blocked
from xraygan.utils.seeding import derive_seed

from .options import allows_literal, options_of, takes_positional
from .part_config import PartConfig
from .plugin_errors import PluginFault, plugin_errors


def from_random(choice: PartConfig) -> PartConfig:
    """The same part with random initial weights instead of a file or a download."""
    option = options_of(choice.part.cls).get("weights")
    if option is None or not allows_literal(option.type, "random"):
        return choice
    return replace(choice, options={**choice.options, "weights": "random"})


def build(choice: PartConfig, *positional: Any, seed: int = 0) -> Any:
    """Build an instance of a part.

    Args:
        positional: the arguments that the core passes to parts of this kind, if the constructor
            takes any.
        seed: the run's seed; the initial weights are a function of it and of the recipe's table.

    Raises:
        UserError: the constructor refused its options; the message names the recipe's table.
    """
    torch.manual_seed(derive_seed(seed, "init", choice.table))
    arguments = positional if takes_positional(choice.part.cls) else ()
    try:
        with plugin_errors(choice, "its constructor"):
            return choice.part.cls(*arguments, **choice.options)
    except PluginFault:
        raise
    except UserError as error:
        raise UserError(f"[{choice.table}]: {error}") from error
    except Blocked as error:
        raise Blocked(
            f"[{choice.table}]: the plugin {choice.part.name!r} of {choice.part.origin} cannot be "
            f"built here: {error}"
        ) from error
