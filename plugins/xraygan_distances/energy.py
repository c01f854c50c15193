"""The energy distance."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from .samples import DistanceScore, squared_distances

#: squared distances below this share of the largest are rounding
ROUNDING = 1e-14


def energy_distance(x: Tensor, y: Tensor, exponent: float = 1.0) -> Tensor:
    """The energy distance of two samples, the rows of ``(N, D)`` and ``(M, D)``; a scalar."""
    crossed, ours, theirs = (
        _powered_distances(*pair, exponent).mean() for pair in ((x, y), (x, x), (y, y))
    )
    return 2 * crossed - ours - theirs


def _powered_distances(x: Tensor, y: Tensor, exponent: float) -> Tensor:
    """|x_i - y_j|^exponent ``(N, M)``, with gradient 0 where two rows coincide."""
    squared = squared_distances(x, y)
    # The power's derivative is infinite at 0, and 0 * inf is NaN: there it never sees the 0.
    apart = squared > ROUNDING * squared.detach().amax()
    return torch.where(apart, squared, 1.0).pow(exponent / 2) * apart


class EnergyDistance(DistanceScore):
    """Energy distance between the real and the generated batch

    E = 2 E|x - y|^a - E|x - x'|^a - E|y - y'|^a, with x and x' the rows of real images, y and y'
    those of generated ones, and each expectation the mean over all pairs of the batch, a row and
    itself included (a V-statistic). E >= 0, and 0 only where both batches have the same rows.

    Source: Székely and Rizzo (2013), "Energy statistics: A class of statistics based on
    distances", J. Statistical Planning and Inference 143(8).

    Args:
        exponent: a; at 2 the distance would see the means alone. Below 1 its gradient grows without
            bound as rows approach each other.
        extractor: a name of [extractors], whose features are compared; empty for the classifier's
            class distributions.
        layer: which of the extractor's maps, averaged over its positions; empty for the last.
    """

    def __init__(
        self,
        *,
        exponent: Annotated[float, Field(gt=0, lt=2)] = 1.0,
        extractor: str = "",
        layer: str = "",
    ) -> None:
        super().__init__(extractor, layer)
        self.exponent = exponent

    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        return energy_distance(x, y, self.exponent)
