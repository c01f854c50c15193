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

#: queries, and reference images, whose distances are in memory at a time
CHUNK = 1024
#: pixels across, of the small images that are compared
SIDE = 32

#: images, and whether they are real, as points ``(N, D)`` float64 on the run's device
Embed = Callable[[Tensor | Images, bool], Tensor]


@dataclass(frozen=True)
class Neighbours:
    """The nearest reference images of each query, the nearest first.

    Attributes:
        distances: ``(Q, k)`` float64, Euclidean.
        rows: ``(Q, k)`` int64, their places in the reference.
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
    """The k nearest of ``count`` reference points, a chunk of which is in memory at a time.

    In float64: with |x|^2 - 2 x.y + |y|^2 in float32 the distance of a copy would be rounding.

    Args:
        queries: ``(Q, D)`` float64.
        reference: a part of the reference points, ``(n, D)`` float64, on the queries' device.
        count: how many there are.
        k: at most ``count``.
        apart: numbers ``(Q,)`` and ``(count,)`` on that device: a query's distance to a reference
            point of its own number is infinite.
    """
    best = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    rows = torch.full((len(queries), k), -1, device=queries.device)
    for part in _parts(count, chunk):
        points = reference(part)
        places = torch.arange(part.start, part.stop, device=queries.device)
        for some in _parts(len(queries), chunk):
            squares = squared_distances(queries[some], points)
            if apart is not None:
                squares[apart[0][some, None] == apart[1][part]] = torch.inf
            best[some], order = torch.cat([best[some], squares], dim=1).topk(k, largest=False)
            known = torch.cat([rows[some], places.expand(len(squares), -1)], dim=1)
            rows[some] = known.gather(1, order)
    return Neighbours(best.sqrt().cpu().numpy(), rows.cpu().numpy())


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 of ``(N, D)`` and ``(M, D)`` points as ``(N, M)``."""
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return torch.addmm(lengths, x, y.T, alpha=-2).clamp_(min=0)


def nearest_training_images(
    evaluation: Evaluation, images: Tensor, k: int
) -> dict[str, Neighbours]:
    """The training images nearest to generated ones, in each space of the privacy audit.

    Args:
        images: ``(Q, S, S)`` uint8, generated.
        k: how many for each; all training images where there are fewer.

    Returns:
        By space, ``"pixels"`` and, with a classifier, ``"features"``: their rows in
        ``evaluation.train``, and how far they are, see :func:`thumbnails`.

    Raises:
        UserError: the classifier's features are not finite.
    """
    train = evaluation.train.images
    count = len(train)

    def found(embed: Embed) -> Neighbours:
        def part(which: slice) -> Tensor:
            return embed(train.take(torch.arange(which.start, which.stop)), True)

        return nearest_neighbors(embed(images, False), part, count, min(k, count))

    return {name: found(embed) for name, embed in spaces(evaluation).items()}


# -- images as points ------------------------------------------------------------------------------


def spaces(evaluation: Evaluation) -> dict[str, Embed]:
    """Where distances are measured: in pixels and, with a classifier, in its features."""
    found: dict[str, Embed] = {"pixels": partial(thumbnails, evaluation)}
    if "classifier" in evaluation.networks:
        found["features"] = partial(_features, evaluation)
    return found


def thumbnails(evaluation: Evaluation, images: Tensor | Images, real: bool) -> Tensor:
    """Images as points ``(N, D)`` whose distance is the root mean square difference of greys.

    Greys are in [0, 1]. Images are averaged down to 32 x 32 first: without that, the fine grain
    that a generator adds is as far from a copied image as it is from any other, and an image that
    is moved by a pixel is another.
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

    Of greys as :func:`thumbnails` has them, so that neither brightness nor contrast counts. The
    last coordinate is 1 for an image without any contrast: it has no correlation but with another
    such image.
    """
    points = thumbnails(evaluation, images, real)
    points = points - points.mean(dim=1, keepdim=True)
    lengths = points.norm(dim=1, keepdim=True)
    flat = lengths < 1e-6
    return torch.cat([torch.where(flat, 0.0, points / lengths), flat.to(points)], dim=1)


def as_greys(evaluation: Evaluation, images: Tensor, real: bool) -> Tensor:
    """``(N, S, S)`` uint8 images as greys ``(N, 1, S, S)``, 0 and 1 where real ones are black and
    white in the recipe's value range; generated ones are in [-1, 1] whatever that is."""
    low, high = evaluation.value_range
    span = (low, high) if real else (-1.0, 1.0)
    return (to_range(images[:, None], span) - low) / (high - low)


def as_shown(evaluation: Evaluation, images: Tensor, real: bool) -> np.ndarray:
    """``(N, S, S)`` uint8 images with the greys that the discriminator sees, to be shown beside
    each other: ``(N, S, S)`` uint8; see :func:`as_greys`."""
    greys = as_greys(evaluation, images, real)[:, 0].clamp(0, 1)
    return (greys * 255).round().byte().cpu().numpy()


def _features(evaluation: Evaluation, images: Tensor | Images, real: bool) -> Tensor:
    found = torch.from_numpy(evaluation.classify(images, real=real)[0])
    if not found.isfinite().all():  # of which none would be the nearest to anything
        raise UserError(
            f"the classifier's features of {'real' if real else 'generated'} images are not "
            "finite, so nothing can be compared in them; take another --checkpoint"
        )
    return found.to(evaluation.device)
