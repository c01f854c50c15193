"""The evaluation of a run's classifier on an external test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from xraygan.data.image_splits import ImageSplit
from xraygan.graph.graph import TrainingGraph
from xraygan.recipe.loading import Recipe

from .evaluation import RunEvaluation

#: the ``split`` of an evaluation's protocol
EXTERNAL = "external"


class ExternalEvaluation(RunEvaluation):
    """The evaluation of the classifier alone: generated images have no external test set.

    Args:
        recipe: the run's, whose ``[data]`` describes the external data.
        graph: the run's networks.
        images: the external images, labelled in the run's classes.
        classes: the run's classes that they are labelled with.
        device: the device of the networks.
        validation: returns the run's own validation images, which choose thresholds.
    """

    def __init__(
        self,
        recipe: Recipe,
        graph: TrainingGraph,
        images: ImageSplit,
        classes: frozenset[str],
        device: torch.device,
        validation: Callable[[], ImageSplit | None],
    ) -> None:
        none = images.take(np.arange(0))
        super().__init__(recipe, graph, none, images, device, EXTERNAL, validation)
        self._covered = classes

    @property
    def kind(self) -> str:
        return EXTERNAL

    @property
    def classes(self) -> dict[str, int]:
        names = enumerate(self.task.classes)
        return {name: column for column, name in names if name in self._covered}

    @property
    def networks(self) -> Mapping[str, Any]:
        return {"classifier": self.graph.networks["classifier"]}
