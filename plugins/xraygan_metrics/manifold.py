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

from .features import FeatureMetric, counts
from .intervals import with_jackknife

Statistic = Callable[[Tensor], float]

CHUNK = 1024  # points, and centres, whose distances are in memory at a time
SLACK = 1 + 1e-9  # so that rounding does not put a point's k-th neighbour outside its ball


def radii(points: Tensor, k: int) -> Tensor:
    """How far ``(N,)`` the balls of ``(N, D)`` points reach: each to its k-th nearest other."""
    own = torch.arange(len(points), device=points.device)
    found = nearest_neighbors(points, points.__getitem__, len(points), k, apart=(own, own))
    return torch.from_numpy(found.distances[:, -1] * SLACK).to(points.device)


def balls_around(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """In how many balls each point lies, ``(N,)``, a part of the distances in memory at a time.

    Args:
        points: ``(N, D)`` float64.
        centres, radius: ``(M, D)`` and ``(M,)``.
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
    """The share of generated points that lie in a ball of a real one."""
    radius = radii(real, k)
    return lambda made: float((balls_around(made, real, radius) > 0).double().mean())


def recall(real: Tensor, k: int) -> Statistic:
    """The share of real points that lie in a ball of a generated one."""
    return lambda made: float((balls_around(real, made, radii(made, k)) > 0).double().mean())


def density(real: Tensor, k: int) -> Statistic:
    """In how many balls of real points a generated one lies, over k: mean over generated points."""
    radius = radii(real, k)
    return lambda made: float(balls_around(made, real, radius).mean() / k)


def coverage(real: Tensor, k: int) -> Statistic:
    """The share of real points whose balls hold a generated one."""
    radius = radii(real, k).cpu().numpy()
    return lambda made: float(
        (nearest_neighbors(real, made.__getitem__, len(made)).distances[:, 0] <= radius).mean()
    )


class _Neighbours(FeatureMetric):
    """Figures of balls around images that reach to their k-th nearest neighbour."""

    def __init__(self, extractor: str, neighbours: int) -> None:
        self.extractor = extractor
        self.neighbours = neighbours

    @abstractmethod
    def figures(self) -> Mapping[str, tuple[Callable[[Tensor, int], Statistic], float]]:
        """Each figure's definition, and the most that it can be."""

    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, whose: str
    ) -> Mapping[str, Measurement]:
        k = self.neighbours
        note = f"{whose}; {counts(real, generated)}, {k} nearest neighbours"
        if min(len(real), len(generated)) < 2 * (k + 1):
            few = Measurement(None, len(generated), note=f"{note}: too few")
            return {f"{name}/{self.extractor}": few for name in self.figures()}
        points = torch.from_numpy(real).to(evaluation.device)

        def measured(define: Callable[[Tensor, int], Statistic], most: float) -> Measurement:
            figure = define(points, k)
            return with_jackknife(
                lambda made: figure(torch.from_numpy(made).to(evaluation.device)),
                generated, note, better="higher", low=0.0, high=most,
            )  # fmt: skip

        return {f"{n}/{self.extractor}": measured(*how) for n, how in self.figures().items()}


class PrecisionRecall(_Neighbours):
    """Improved precision (fidelity) and recall (diversity) by nearest neighbours

    The balls around a set's images, each reaching to the image's k-th nearest neighbour in the set,
    stand for all images of its kind. Precision is the share of generated images inside the training
    images' balls, recall the share of training images inside the generated images' balls; both are
    in [0, 1]. A training image far from all others makes a large ball that much lies in: density
    suffers less from it. Intervals are jackknives over ten blocks of the generated images.

    Source: Kynkaanniemi et al., arXiv:1904.06991.

    Args:
        extractor: whose features: "classifier" for the run's own, or a name of [extractors].
        neighbours: k, 3 in the source.
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


class DensityCoverage(_Neighbours):
    """Density (fidelity) and coverage (diversity) by nearest neighbours

    With balls around the training images, each reaching to the image's k-th nearest neighbour among
    them: density is the mean number of balls that a generated image lies in, over k, about 1 where
    both are alike, and can be above. Coverage is the share of balls that hold a generated image, in
    [0, 1], about 1 - 2^-k where both are alike and as many. Intervals are jackknives over ten
    blocks of the generated images.

    Source: Naeem et al., arXiv:2002.09797.

    Args:
        extractor: whose features: "classifier" for the run's own, or a name of [extractors].
        neighbours: k, 5 in the source.
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
