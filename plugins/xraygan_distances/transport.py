"""Optimal transport: the sliced Wasserstein distance and the Sinkhorn divergence."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from .samples import DistanceScore, LabelWeight, squared_distances


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor, power: int = 2) -> Tensor:
    """Mean over directions of the p-th power of the Wasserstein-p distance along them.

    On a line, the optimal plan pairs the i-th smallest point of x with the i-th smallest of y, so
    sorting the projections solves the transport problem.

    Args:
        x, y: ``(N, D)``.
        directions: ``(L, D)`` unit vectors.
        power: p.
    """
    sorted_x, sorted_y = ((rows @ directions.T).sort(dim=0).values for rows in (x, y))
    return (sorted_x - sorted_y).abs().pow(power).mean()


def entropic_cost(cost: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """min_P <P, C> + epsilon KL(P | 1/N^2) over plans P between uniform samples, by its dual.

    Sinkhorn's iterations in the log domain find the potentials f and g, without gradients. The dual
    mean f + mean g - epsilon mean(exp((f + g - C) / epsilon) - 1) is then differentiated by the
    cost alone, which gives the plan (envelope theorem). So no gradient passes through the
    iterations, and they need no memory.

    Args:
        cost: C, ``(B, N, N)``, for B problems.
        epsilon: the regularization, a scalar.
        iterations: number of updates of f and of g.

    Returns:
        ``(B,)``.
    """
    log_n = math.log(cost.shape[-1])
    with torch.no_grad():
        g = cost.new_zeros(cost.shape[:-1])
        for _ in range(iterations):
            f = epsilon * (log_n - torch.logsumexp((g[:, None, :] - cost) / epsilon, dim=2))
            g = epsilon * (log_n - torch.logsumexp((f[:, :, None] - cost) / epsilon, dim=1))
    plan = torch.exp((f[:, :, None] + g[:, None, :] - cost) / epsilon)
    return f.mean(dim=1) + g.mean(dim=1) - epsilon * (plan.mean(dim=(1, 2)) - 1)


def sinkhorn_divergence(x: Tensor, y: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """OT(x, y) - (OT(x, x) + OT(y, y)) / 2 for the cost |x - y|^2 between rows ``(N, D)``."""
    costs = torch.stack([squared_distances(*pair) for pair in ((x, y), (x, x), (y, y))])
    between, within_x, within_y = entropic_cost(costs, epsilon, iterations)
    return between - (within_x + within_y) / 2


class SlicedWasserstein(DistanceScore):
    """Sliced Wasserstein distance between the real and the generated batch

    SW_p^p = E_v[mean_i |x_(i) . v - y_(i) . v|^p], the mean over L random unit vectors v of the
    Wasserstein distance between the projections of both batches, which compares their i-th smallest
    values. The loss is the p-th power, because it is differentiable at 0. Each step draws new
    directions. It is 0 only if both batches have the same projections.

    Source: Bonneel et al. (2015), J. Mathematical Imaging and Vision 51; as a generator's loss
    Deshpande et al., arXiv:1803.11188.

    Args:
        projections: L, the number of directions.
        power: p.
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
        projections: Annotated[int, Field(gt=0, le=10_000)] = 128,
        power: Literal[1, 2] = 2,
        extractor: str = "",
        layer: str = "",
        labels: LabelWeight = 0.0,
    ) -> None:
        super().__init__(extractor, layer, labels)
        self.projections = projections
        self.power = power

    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        shape = (self.projections, x.shape[1])
        directions = torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)
        directions = directions / directions.norm(dim=1, keepdim=True)
        return sliced_wasserstein(x, y, directions, self.power)


class Sinkhorn(DistanceScore):
    """Debiased Sinkhorn divergence between the real and the generated batch

    S = OT_e(x, y) - OT_e(x, x) / 2 - OT_e(y, y) / 2, where OT_e is the minimum of <P, C> +
    e KL(P | uniform) over plans P that transport one batch to the other, with
    C_ij = |x_i - y_j|^2. S of a batch and itself is 0. For e -> 0 it is the squared Wasserstein-2
    distance, for e -> infinity the squared distance of the means. e is relative to the mean cost
    between the real and the generated rows of this batch, so that S scales as squared distances do,
    and the number of iterations that is needed does not depend on the scale of the rows. No
    gradient passes through that mean.

    Source: Genevay, Peyré and Cuturi, arXiv:1706.00292; Feydy et al., arXiv:1810.08278.

    Args:
        epsilon: e, in units of the mean cost.
        iterations: updates of each potential; a fixed number, so that no step waits for a
            convergence test.
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
        epsilon: Annotated[float, Field(gt=0)] = 0.1,
        iterations: Annotated[int, Field(gt=0, le=100_000)] = 50,
        extractor: str = "",
        layer: str = "",
        labels: LabelWeight = 0.0,
    ) -> None:
        super().__init__(extractor, layer, labels)
        self.epsilon = epsilon
        self.iterations = iterations

    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        unit = squared_distances(x.detach(), y.detach()).mean()
        # The clamp is for batches whose rows are all equal.
        epsilon = self.epsilon * unit.clamp(min=torch.finfo(unit.dtype).tiny)
        return sinkhorn_divergence(x, y, epsilon, self.iterations)
