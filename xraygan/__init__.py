"""xraygan: a plugin-based GAN toolkit for chest X-rays.

The public names: runs and recipes, and the classes that plugins subclass or are given. The tools
that plugins may use are in :mod:`xraygan.plugin_api`. Importing this package does not import torch
until a name that needs it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xraygan import _moved
from xraygan._version import __version__
from xraygan.errors import UserError
from xraygan.parts.hookspecs import hookimpl

if TYPE_CHECKING:
    from xraygan.api import Run, run
    from xraygan.parts.evaluation import Evaluation, Measurement
    from xraygan.parts.interfaces import (
        Augmenter,
        Classifier,
        Dataset,
        Discriminator,
        Extractor,
        Generator,
        Labeler,
        Metric,
        Objective,
        Score,
        Tracker,
    )
    from xraygan.parts.step import Step
    from xraygan.parts.task import Task
    from xraygan.recipe.loading import Recipe

__all__ = [
    "Augmenter",
    "Classifier",
    "Dataset",
    "Discriminator",
    "Evaluation",
    "Extractor",
    "Generator",
    "Labeler",
    "Measurement",
    "Metric",
    "Objective",
    "Recipe",
    "Run",
    "Score",
    "Step",
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


_moved.install()
