"""The energy distance."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from .samples import DistanceScore, LabelWeight, squared_distances

#: squared distances below this share of the largest are rounding errors
ROUNDING = 1e-14


def energy_distance(x: Tensor, y: Tensor, exponent: float = 1.0) -> Tensor:
    """The energy distance of two samples, the rows of ``(N, D)`` and ``(M, D)``; a scalar."""
    between, within_x, within_y = (
        _powered_distances(*pair, exponent).mean() for pair in ((x, y), (x, x), (y, y))
    )
    return 2 * between - within_x - within_y


def _powered_distances(x: Tensor, y: Tensor, exponent: float) -> Tensor:
    """|x_i - y_j|^exponent ``(N, M)``, with gradient 0 where two rows coincide."""
    squared = squared_distances(x, y)
    # The power's derivative is infinite at 0, and 0 * inf is NaN: replace 0 by 1 before the power.
    apart = squared > ROUNDING * squared.detach().amax()
    return torch.where(apart, squared, 1.0).pow(exponent / 2) * apart


class EnergyDistance(DistanceScore):
    """Energy distance between the real and the generated batch

    E = 2 E|x - y|^a - E|x - x'|^a - E|y - y'|^a, with x and x' the rows of real images, y and y'
    those of generated images. Each expectation is the mean over all pairs of the batch, including
    a row and itself (a V-statistic). E >= 0, and 0 only if both batches have the same rows.

    Source: Székely and Rizzo (2013), "Energy statistics: A class of statistics based on
    distances", J. Statistical Planning and Inference 143(8).

    Args:
        exponent: a; with 2 the distance would depend only on the means. Below 1 its gradient grows
            without bound as rows approach each other.
        extractor: a name of [extractors], to compare its features; empty for the classifier's class
            distributions.
        layer: the extractor's map to compare, averaged over its positions; empty for the last.
        labels: how much the labels count: label vectors times this number are appended to the rows,
            so that images are compared together with their labels, real ones and the conditions of
            generated ones; 0 for the images alone.
    """

    def __init__(
        self,
        *,
        exponent: Annotated[float, Field(gt=0, lt=2)] = 1.0,
        extractor: str = "",
        layer: str = "",
        labels: LabelWeight = 0.0,
    ) -> None:
        super().__init__(extractor, layer, labels)
        self.exponent = exponent

    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        return energy_distance(x, y, self.exponent)
