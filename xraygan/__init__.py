"""xraygan: a plugin-based GAN toolkit for chest X-rays.

The public names; importing this package does not import torch until one that needs it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xraygan._version import __version__
from xraygan.errors import UserError
from xraygan.parts.hookspecs import hookimpl

if TYPE_CHECKING:
    from xraygan.api import Run, run
    from xraygan.parts.interfaces import (
        Augmenter,
        Classifier,
        Dataset,
        Discriminator,
        Extractor,
        Generator,
        Labeler,
        Measurement,
        Metric,
        Objective,
        Score,
        Task,
        Tracker,
    )
    from xraygan.recipe.loading import Recipe

__all__ = [
    "Augmenter",
    "Classifier",
    "Dataset",
    "Discriminator",
    "Extractor",
    "Generator",
    "Labeler",
    "Measurement",
    "Metric",
    "Objective",
    "Recipe",
    "Run",
    "Score",
    "Task",
    "Tracker",
    "UserError",
    "__version__",
    "hookimpl",
    "run",
]

_HOMES = {"Recipe": ".recipe.loading", "Run": ".api", "run": ".api"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, ".parts.interfaces"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
