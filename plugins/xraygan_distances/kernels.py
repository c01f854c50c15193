"""Maximum mean discrepancies: with the kernel of KID, and with Gaussians of several bandwidths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from .samples import DistanceScore, LabelWeight, squared_distances

Kernel = Callable[[Tensor, Tensor], Tensor]


def unbiased_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """Squared MMD of two samples: an unbiased estimate, so it can be negative.

    sum_{i != j} [k(x_i, x_j) + k(y_i, y_j)] / (N (N - 1)) - 2 sum_{i, j} k(x_i, y_j) / N^2.

    Args:
        x, y: ``(N, D)``.
        kernel: maps rows ``(N, D)`` and ``(M, D)`` to ``(N, M)``.

    Returns:
        Scalar; 0 if N < 2, because there are no pairs.
    """
    n = len(x)
    if n < 2:
        return (x.sum() + y.sum()) * 0.0
    within = kernel(x, x) + kernel(y, y)
    pairs = within.sum() - within.diagonal().sum()
    return pairs / (n * (n - 1)) - 2 * kernel(x, y).mean()


def polynomial_kernel(x: Tensor, y: Tensor, degree: int = 3) -> Tensor:
    """(x . y / D + 1)^degree of the rows of ``(N, D)`` and ``(M, D)``: ``(N, M)``."""
    return (x @ y.T / x.shape[1] + 1).pow(degree)


def gaussian_kernel(x: Tensor, y: Tensor, bandwidths: Tensor) -> Tensor:
    """Mean over b of exp(-|x - y|^2 / (2 b^2)), ``(N, M)``.

    Args:
        bandwidths: ``(B,)``.
    """
    rates = -0.5 / bandwidths.square()
    return torch.exp(rates[:, None, None] * squared_distances(x, y)).mean(dim=0)


class PolynomialMMD(DistanceScore):
    """Squared MMD between the real and the generated batch, with the polynomial kernel of KID

    k(a, b) = (a . b / D + 1)^m for rows of D numbers. The estimate is unbiased, so it can be
    negative. With an extractor it is the Kernel Inception Distance of one batch in that network's
    features.

    Source: Binkowski et al., arXiv:1801.01401; Gretton et al. (2012).

    Args:
        degree: m, 3 in KID; the loss compares moments up to the m-th only.
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
        degree: Annotated[int, Field(ge=1, le=100)] = 3,
        extractor: str = "",
        layer: str = "",
        labels: LabelWeight = 0.0,
    ) -> None:
        super().__init__(extractor, layer, labels)
        self.degree = degree

    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        return unbiased_mmd(x, y, lambda a, b: polynomial_kernel(a, b, self.degree))


class MixtureMMD(DistanceScore):
    """Squared MMD between the real and the generated batch, with Gaussians of several bandwidths

    k(a, b) = mean over s of exp(-|a - b|^2 / (2 s^2)): small s compare the rows within clusters,
    large s the positions of clusters. Each s is one of `bandwidths` times the median, or the mean,
    of the distances |x_i - y_j| between real and generated rows of this batch; no gradient passes
    through it. For fixed s the estimate is unbiased, so it can be negative.

    Source: Li, Swersky and Zemel, arXiv:1502.02761; the median distance after Gretton et al.
    (2012).

    Args:
        bandwidths: the s, in units of `relative_to`.
        relative_to: "median" or "mean" of the distances; "nothing" for absolute bandwidths.
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
        bandwidths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
            0.25,
            0.5,
            1.0,
            2.0,
            4.0,
        ),
        relative_to: Literal["median", "mean", "nothing"] = "median",
        extractor: str = "",
        layer: str = "",
        labels: LabelWeight = 0.0,
    ) -> None:
        super().__init__(extractor, layer, labels)
        self.bandwidths = bandwidths
        self.relative_to = relative_to

    def distance(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        unit = self._unit(x.detach(), y.detach())
        # One by one, since a tensor of the numbers would be copied to the GPU, which blocks.
        bandwidths = torch.stack([unit * number for number in self.bandwidths])
        return unbiased_mmd(x, y, lambda a, b: gaussian_kernel(a, b, bandwidths))

    def _unit(self, x: Tensor, y: Tensor) -> Tensor:
        """The absolute bandwidth that a relative one of 1 means."""
        if self.relative_to == "nothing":
            return x.new_ones(())
        distances = squared_distances(x, y).sqrt()
        unit = distances.median() if self.relative_to == "median" else distances.mean()
        return unit.clamp(min=1e-12)  # all rows may be the same
