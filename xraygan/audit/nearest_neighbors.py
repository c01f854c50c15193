"""Nearest neighbours among more images than memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xraygan.data.datamodule import to_range
from xraygan.errors import UserError
from xraygan.parts.evaluation import Evaluation, Images

#: number of queries, and of reference images, whose distances are in memory at a time
CHUNK = 1024
#: side of the small images that are compared, in pixels
SIDE = 32

#: a function from images, and whether they are real, to points ``(N, D)`` float64 on the device
Embed = Callable[[Tensor | Images, bool], Tensor]


@dataclass(frozen=True)
class Neighbours:
    """The nearest reference images of each query, the nearest first.

    Attributes:
        distances: ``(Q, k)`` float64, Euclidean.
        rows: ``(Q, k)`` int64, their indices in the reference.
    """

    distances: np.ndarray
    rows: np.ndarray


def nearest_neighbors(
    queries: Tensor,
    reference: Callable[[slice], Tensor],
    count: int,
    k: int = 1,
    *,
    apart: tuple[Tensor, Tensor] | None = None,
    chunk: int = CHUNK,
) -> Neighbours:
    """The k nearest of ``count`` reference points, one chunk of which is in memory at a time.

    In float64: |x|^2 - 2 x.y + |y|^2 in float32 would give only rounding errors for a copy.

    Args:
        queries: ``(Q, D)`` float64.
        reference: returns a slice of the reference points, ``(n, D)`` float64, on the queries'
            device.
        count: the number of reference points.
        k: at most ``count``.
        apart: groups ``(Q,)`` of the queries and ``(count,)`` of the reference points, on that
            device; the distance of a query to a point of its own group is infinite.
    """
    # For each pair of chunks, the k best of the distances so far and of the new ones are kept.
    best = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    rows = torch.full((len(queries), k), -1, device=queries.device)
    for part in _slices(count, chunk):
        points = reference(part)
        indices = torch.arange(part.start, part.stop, device=queries.device)
        for some in _slices(len(queries), chunk):
            squares = squared_distances(queries[some], points)
            if apart is not None:
                squares[apart[0][some, None] == apart[1][part]] = torch.inf
            best[some], order = torch.cat([best[some], squares], dim=1).topk(k, largest=False)
            candidates = torch.cat([rows[some], indices.expand(len(squares), -1)], dim=1)
            rows[some] = candidates.gather(1, order)
    return Neighbours(best.sqrt().cpu().numpy(), rows.cpu().numpy())


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 of ``(N, D)`` and ``(M, D)`` points as ``(N, M)``."""
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return torch.addmm(lengths, x, y.T, alpha=-2).clamp_(min=0)


def nearest_training_images(
    evaluation: Evaluation, images: Tensor, k: int
) -> dict[str, Neighbours]:
    """The training images nearest to generated images, in each space of the privacy audit.

    Args:
        images: ``(Q, S, S)`` uint8, generated.
        k: number of training images for each; all of them if there are fewer.

    Returns:
        By space, ``"pixels"`` and, with a classifier, ``"features"``: the rows of the nearest
        images in ``evaluation.train`` and their distances, see :func:`thumbnails`.

    Raises:
        UserError: the classifier's features are not finite.
    """
    train = evaluation.train.images
    count = len(train)

    def search(embed: Embed) -> Neighbours:
        def part(rows: slice) -> Tensor:
            return embed(train.take(torch.arange(rows.start, rows.stop)), True)

        return nearest_neighbors(embed(images, False), part, count, min(k, count))

    return {name: search(embed) for name, embed in spaces(evaluation).items()}


# -- images as points ------------------------------------------------------------------------------


def spaces(evaluation: Evaluation) -> dict[str, Embed]:
    """The spaces of the distances: pixels and, with a classifier, its features."""
    embeds: dict[str, Embed] = {"pixels": partial(thumbnails, evaluation)}
    if "classifier" in evaluation.networks:
        embeds["features"] = partial(_features, evaluation)
    return embeds


def thumbnails(evaluation: Evaluation, images: Tensor | Images, real: bool) -> Tensor:
    """Images as points ``(N, D)`` whose distance is the root mean square difference of greys.

    Greys are in [0, 1]. Images are averaged down to 32 x 32 first. Otherwise the fine grain of a
    generator would make a copy as distant as any other image, and so would a shift by one pixel.
    """
    size = evaluation.batch_size
    points = []
    for start in range(0, len(images), size):
        greys = as_greys(evaluation, images[start : start + size].to(evaluation.device), real)
        small = F.adaptive_avg_pool2d(greys, min(SIDE, greys.shape[-1]))
        points.append(small.flatten(1).double() / small.shape[-1])
    return torch.cat(points)


def patterns(evaluation: Evaluation, images: Tensor | Images, real: bool) -> Tensor:
    """Images as points ``(N, D + 1)`` of length 1 whose products are the correlations of greys.

    The greys are those of :func:`thumbnails`. Correlations ignore brightness and contrast. The last
    coordinate is 1 for an image without contrast, which correlates only with other such images.
    """
    points = thumbnails(evaluation, images, real)
    points = points - points.mean(dim=1, keepdim=True)
    lengths = points.norm(dim=1, keepdim=True)
    flat = lengths < 1e-6
    return torch.cat([torch.where(flat, 0.0, points / lengths), flat.to(points)], dim=1)


def as_greys(evaluation: Evaluation, images: Tensor, real: bool) -> Tensor:
    """``(N, S, S)`` uint8 images as greys ``(N, 1, S, S)``: 0 is black and 1 is white.

    Real images are in the recipe's value range; generated images are always in [-1, 1].
    """
    low, high = evaluation.value_range
    span = (low, high) if real else (-1.0, 1.0)
    return (to_range(images[:, None], span) - low) / (high - low)


def as_shown(evaluation: Evaluation, images: Tensor, real: bool) -> np.ndarray:
    """``(N, S, S)`` uint8 images with the greys that the discriminator sees, for pictures that show
    real and generated images side by side: ``(N, S, S)`` uint8; see :func:`as_greys`."""
    greys = as_greys(evaluation, images, real)[:, 0].clamp(0, 1)
    return (greys * 255).round().byte().cpu().numpy()


def _features(evaluation: Evaluation, images: Tensor | Images, real: bool) -> Tensor:
    features = torch.from_numpy(evaluation.classify(images, real=real)[0])
    if not features.isfinite().all():  # NaN would be nearest to no image
        raise UserError(
            f"the classifier's features of {'real' if real else 'generated'} images are not "
            "finite, so images cannot be compared in them; choose another --checkpoint"
        )
    return features.to(evaluation.device)
