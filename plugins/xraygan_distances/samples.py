"""The samples that the distances compare: class distributions or features of both batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Score, Step, UserError
from xraygan.plugin_api import as_float32

LabelWeight = Annotated[float, Field(ge=0)]


class DistanceScore(Score):
    """The base of distances between two samples: the rows of the real and of the generated batch.

    Args:
        extractor: a name of [extractors], to compare its features; empty for the classifier's class
            distributions.
        layer: the extractor's map to compare, averaged over its positions; empty for the last.
        labels: label vectors times this number are appended to the rows; 0 for none.

    Raises:
        UserError: ``layer`` without ``extractor``.
    """

    @classmethod
    def networks_read(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        classifier = options["extractor"] in ("", "classifier")
        return ("generator", "classifier") if classifier else ("generator",)

    def __init__(self, extractor: str, layer: str, labels: float) -> None:
        super().__init__()
        if layer and not extractor:
            raise UserError(
                f"layer is {layer!r}, but extractor is empty: set extractor to the name of the "
                "extractor that has this layer, or remove layer"
            )
        self.extractor = extractor
        self.layer = layer
        self.labels = labels

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The distance of two samples, the rows of ``(N, D)`` float64; a scalar.

        Args:
            rng: the step's random generator; it gives the same numbers on all ranks.
        """

    def forward(self, step: Step) -> Tensor:
        # In float64, since rows of probabilities are close to each other and their distances would
        # cancel in float32.
        x, y = self._rows(step, "real"), self._rows(step, "fake")
        return self.distance(x.double(), y.double(), step.rng).to(x.dtype)

    def _rows(self, step: Step, images: str) -> Tensor:
        rows = self._described(step, images)
        if not self.labels:
            return rows
        if not step.networks["generator"].conditional:
            raise UserError(
                f"labels is {self.labels:g}, but the generator is not conditional, so its images "
                "have no labels; set labels to 0, or choose a conditional generator"
            )
        labels = step.task.one_hot(step.labels if images == "real" else step.fake_labels)
        return torch.cat([rows, self.labels * labels.to(rows)], dim=1)

    def _described(self, step: Step, images: str) -> Tensor:
        if not self.extractor:
            return step.real_probs if images == "real" else step.fake_probs
        key = ("xraygan_distances", self.extractor, self.layer, images)
        return step.cached(key, lambda: self._pooled(step, images))

    def _pooled(self, step: Step, images: str) -> Tensor:
        """The features ``(N, D)`` of the batch of all ranks: the map's mean over its positions."""
        maps = step.features(self.extractor, images)
        layer = self.layer or list(maps)[-1]
        if layer not in maps:
            raise UserError(
                f"layer: the extractor {self.extractor!r} has no {layer!r}; it has "
                + ", ".join(maps)
            )
        features = as_float32(maps[layer])
        return step.gather(features.reshape(*features.shape[:2], -1).mean(dim=2))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances ``(N, M)`` between the rows of ``(N, D)`` and ``(M, D)``.

    Computed as |x|^2 - 2 xy + |y|^2, since the differences ``(N, M, D)`` would need much memory. In
    float64 and for centred rows it loses about 1e-16 of the batch's squared extent to cancellation.
    """
    centre = x.detach().mean(dim=0)
    x, y = x - centre, y - centre
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return (norms - 2 * x @ y.T).clamp(min=0)
