"""What the distances compare: class distributions of both batches, or features of both."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from xraygan import Score, Step, UserError
from xraygan.plugin_api import as_float32


class DistanceScore(Score):
    """A distance between two samples of the same size, the real and the generated batch's rows.

    Args:
        extractor: a name of [extractors], whose features are the rows; empty for the classifier's
            class distributions.
        layer: which of its feature maps, averaged over their positions; empty for the last.
    """

    def __init__(self, extractor: str, layer: str) -> None:
        super().__init__()
        if layer and not extractor:
            raise UserError(f"layer is {layer!r}, and extractor names none that could have it")
        self.extractor = extractor
        self.layer = layer

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The distance of two samples, the rows of ``(N, D)`` float64; a scalar.

        Args:
            rng: the step's source of random numbers; all ranks draw the same from it.
        """

    def forward(self, step: Step) -> Tensor:
        # Rows of probabilities are close to each other: in float32 their distances would cancel.
        x, y = self._rows(step, "real"), self._rows(step, "fake")
        return self.distance(x.double(), y.double(), step.rng).to(x.dtype)

    def _rows(self, step: Step, images: str) -> Tensor:
        if not self.extractor:
            return step.real_probs if images == "real" else step.fake_probs
        key = ("xraygan_distances", self.extractor, self.layer, images)
        return step.cached(key, lambda: self._pooled(step, images))

    def _pooled(self, step: Step, images: str) -> Tensor:
        """The whole batch's features ``(N, D)``: the maps' means over their positions."""
        maps = step.features(self.extractor, images)
        layer = self.layer or list(maps)[-1]
        if layer not in maps:
            raise UserError(
                f"layer: the extractor {self.extractor!r} has no {layer!r}; it has "
                + ", ".join(maps)
            )
        found = as_float32(maps[layer])
        return step.gather(found.reshape(*found.shape[:2], -1).mean(dim=2))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances ``(N, M)`` between the rows of ``(N, D)`` and ``(M, D)``.

    By |x|^2 - 2 xy + |y|^2, which needs no ``(N, M, D)`` of the many features; in float64 and from
    the middle of the rows it loses about 1e-16 of the batch's squared extent to cancellation.
    """
    middle = x.detach().mean(dim=0)
    x, y = x - middle, y - middle
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return (norms - 2 * x @ y.T).clamp(min=0)
