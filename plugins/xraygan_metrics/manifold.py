"""Fidelity and diversity by nearest neighbours: precision, recall, density and coverage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from xraygan import Evaluation, Measurement
from xraygan.plugin_api import nearest_neighbors, squared_distances

from .features import FeatureMetric, image_counts
from .intervals import with_jackknife

Statistic = Callable[[Tensor], float]

CHUNK = 1024  # points, and centres, whose distances are in memory at a time
SLACK = 1 + 1e-9  # so that a point's k-th neighbour is inside its ball in spite of rounding


def radii(points: Tensor, k: int) -> Tensor:
    """The distance ``(N,)`` of each point ``(N, D)`` to its k-th nearest other point."""
    index = torch.arange(len(points), device=points.device)
    nearest = nearest_neighbors(points, points.__getitem__, len(points), k, apart=(index, index))
    return torch.from_numpy(nearest.distances[:, -1] * SLACK).to(points.device)


def balls_around(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """The number of balls that contain each point, ``(N,)`` float64.

    One chunk of the distances is in memory at a time.

    Args:
        points: ``(N, D)`` float64.
        centres, radius: ``(M, D)`` and ``(M,)``, the balls.
    """
    counts = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    for start in range(0, len(points), CHUNK):
        some = slice(start, start + CHUNK)
        for first in range(0, len(centres), CHUNK):
            part = slice(first, first + CHUNK)
            inside = squared_distances(points[some], centres[part]).sqrt() <= radius[part]
            counts[some] += inside.sum(dim=1)
    return counts


def precision(real: Tensor, k: int) -> Statistic:
    """The share of generated points that lie in a ball around a real point."""
    radius = radii(real, k)
    return lambda fake: float((balls_around(fake, real, radius) > 0).double().mean())


def recall(real: Tensor, k: int) -> Statistic:
    """The share of real points that lie in a ball around a generated point."""
    return lambda fake: float((balls_around(real, fake, radii(fake, k)) > 0).double().mean())


def density(real: Tensor, k: int) -> Statistic:
    """The mean number of balls around real points that a generated point lies in, over k."""
    radius = radii(real, k)
    return lambda fake: float(balls_around(fake, real, radius).mean() / k)


def coverage(real: Tensor, k: int) -> Statistic:
    """The share of real points whose balls contain a generated point."""
    radius = radii(real, k).cpu().numpy()
    return lambda fake: float(
        (nearest_neighbors(real, fake.__getitem__, len(fake)).distances[:, 0] <= radius).mean()
    )


class _BallMetric(FeatureMetric):
    """The base of figures of balls around images that reach to their k-th nearest neighbour."""

    def __init__(self, extractor: str, neighbours: int) -> None:
        self.extractor = extractor
        self.neighbours = neighbours

    @abstractmethod
    def figures(self) -> Mapping[str, tuple[Callable[[Tensor, int], Statistic], float]]:
        """The definition of each figure, and its upper bound."""

    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, space: str
    ) -> Mapping[str, Measurement]:
        k = self.neighbours
        note = f"{space}; {image_counts(evaluation, real, generated)}, {k} nearest neighbours"
        if min(len(real), len(generated)) < 2 * (k + 1):
            few = Measurement(None, len(generated), note=f"{note}: too few")
            return {f"{name}/{self.extractor}": few for name in self.figures()}
        points = torch.from_numpy(real).to(evaluation.device)

        def measured(define: Callable[[Tensor, int], Statistic], bound: float) -> Measurement:
            figure = define(points, k)
            return with_jackknife(
                lambda fake: figure(torch.from_numpy(fake).to(evaluation.device)),
                generated, note, better="higher", low=0.0, high=bound,
            )  # fmt: skip

        return {
            f"{name}/{self.extractor}": measured(define, bound)
            for name, (define, bound) in self.figures().items()
        }


class PrecisionRecall(_BallMetric):
    """Improved precision (fidelity) and recall (diversity) by nearest neighbours

    The manifold of a set of images is estimated by balls around its images, each reaching to the
    image's k-th nearest neighbour in the set. Precision is the share of generated images inside the
    balls of real images, recall the share of real images inside the balls of generated
    images; both are in [0, 1]. A real image that is far from all others has a large ball that
    many images lie in; density (`density_coverage`) is less sensitive to that. Intervals are
    jackknives over ten blocks of the generated images.

    Source: Kynkaanniemi et al., arXiv:1904.06991.

    Args:
        extractor: "classifier" for the run's own classifier, or a name of [extractors].
        neighbours: k, 3 in the paper.
    """

    def __init__(
        self,
        *,
        extractor: str = "classifier",
        neighbours: Annotated[int, Field(gt=0, le=10_000)] = 3,
    ) -> None:
        super().__init__(extractor, neighbours)

    def figures(self) -> Mapping[str, tuple[Callable[[Tensor, int], Statistic], float]]:
        return {"improved_precision": (precision, 1.0), "improved_recall": (recall, 1.0)}


class DensityCoverage(_BallMetric):
    """Density (fidelity) and coverage (diversity) by nearest neighbours

    Both use balls around the real images, each reaching to the image's k-th nearest neighbour
    among them. Density is the mean number of balls that a generated image lies in, over k; it is
    about 1 if both sets have the same distribution, and can be larger. Coverage is the share of
    balls that contain a generated image, in [0, 1]; it is about 1 - 2^-k if both sets have the same
    distribution and size. Intervals are jackknives over ten blocks of the generated images.

    Source: Naeem et al., arXiv:2002.09797.

    Args:
        extractor: "classifier" for the run's own classifier, or a name of [extractors].
        neighbours: k, 5 in the paper.
    """

    def __init__(
        self,
        *,
        extractor: str = "classifier",
        neighbours: Annotated[int, Field(gt=0, le=10_000)] = 5,
    ) -> None:
        super().__init__(extractor, neighbours)

    def figures(self) -> Mapping[str, tuple[Callable[[Tensor, int], Statistic], float]]:
        return {"density": (density, float("inf")), "coverage": (coverage, 1.0)}
