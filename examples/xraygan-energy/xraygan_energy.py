"""A third-party score for xraygan: the energy distance of class distributions."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Score, Step, hookimpl


class EnergyDistance(Score):
    """Energy distance between the class distributions of the real and the generated batch

    E = 2 E|x - y|^a - E|x - x'|^a - E|y - y'|^a, with x and x' the class probabilities of real
    images, y and y' those of generated ones, and each expectation the mean over all pairs of the
    batch (a V-statistic, so E >= 0). It is 0 where both batches have the same rows.

    Source: Székely and Rizzo (2013), "Energy statistics: A class of statistics based on
    distances", J. Statistical Planning and Inference 143(8).

    Args:
        exponent: a; at 2 the distance would see the means alone. Below 1 its gradient grows without
            bound as rows approach each other.
    """

    def __init__(self, *, exponent: Annotated[float, Field(gt=0, lt=2)] = 1.0) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, step: Step) -> Tensor:
        return energy_distance(step.real_probs, step.fake_probs, self.exponent)


def energy_distance(x: Tensor, y: Tensor, exponent: float = 1.0) -> Tensor:
    """The energy distance of two samples, the rows of ``(N, D)`` and ``(M, D)``; a scalar."""
    return (
        2 * _powered_distances(x, y, exponent).mean()
        - _powered_distances(x, x, exponent).mean()
        - _powered_distances(y, y, exponent).mean()
    )


def _powered_distances(x: Tensor, y: Tensor, exponent: float) -> Tensor:
    """|x_i - y_j|^exponent, ``(N, M)``, with gradient 0 where two rows coincide."""
    squared = (x[:, None] - y[None]).square().sum(dim=2)
    # The power's derivative is infinite at 0, and 0 * inf is NaN: there it never sees the 0.
    apart = squared >= torch.finfo(squared.dtype).tiny
    return torch.where(apart, squared, 1.0).pow(exponent / 2) * apart


@hookimpl
def xraygan_register_scores(register):
    register("energy", EnergyDistance)
