"""The statistics of an audit: is what was generated too near to the training images?

Two questions, each answered by a test that assumes no distribution of distances. :func:`copies`
compares generated with held-out images: how near is each to the training images?
:func:`membership` compares training with held-out images: how near is each to the generated ones?
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

from xraygan.statistics.intervals import auc_interval, bootstrap_variance, share_interval

from .nearest_neighbors import Neighbours

LEVEL = 0.05  # how often either claim is made of a generator of which it is not true, at most
TAIL = 0.01  # share of held-out images that are relatively nearer than an image that is flagged
BOOTSTRAP = 1000
PERMUTATIONS = 9999

Object = dict[str, Any]


def relative(near: Neighbours) -> np.ndarray:
    """Each query's distance to its nearest over its mean distance to the others, ``(Q,)``.

    In [0, 1]. It tells a copy from an image that is near to everything, as blurred images are:
    those are about as near to the second and the third as to the nearest. 1 where there are no
    others, or where all are the query itself.

    Source: after Carlini et al., arXiv:2301.13188, who divide by the mean distance to the 50
    nearest.
    """
    if near.distances.shape[1] < 2:
        return np.ones(len(near.distances))
    return ratio(near.distances[:, 0], near.distances[:, 1:].mean(axis=1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; 1 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above == 0) & (below == 0), 1.0, above / below)


def copies(
    generated: Neighbours, held_out: Neighbours, level: float, random: np.random.Generator
) -> tuple[Object, np.ndarray]:
    """Flag generated images that are relatively nearer to a training image than real ones are.

    An image is flagged below the ``rank``-th smallest relative distance of the held-out images,
    where about 1 % of any images would be that are to the training images what held-out ones are.

    The claim that there are copies needs two things. More are flagged than chance explains if all
    are drawn independently (``p``). And it is no accident of a few: a generator without variety
    makes the same image again and again, so the interval of the flagged share, for which images
    with the same nearest training image are drawn together, must lie above the share that is
    expected.

    Args:
        generated, held_out: their nearest training images.
        level: of the test.
        random: draws the resamples.

    Returns:
        The figures, and which generated images are flagged, ``(N,)`` bool.
    """
    fake, real = relative(generated), relative(held_out)
    d_fake, d_real = generated.distances[:, 0], held_out.distances[:, 0]
    n, rank = len(fake), tail_rank(len(real))
    flagged = fake < threshold(real)
    near = np.unique(generated.rows[:, 0], return_inverse=True)[1]

    def surprise(count: int) -> float:
        return chance(count, n, len(real), rank)

    def share(flagged: np.ndarray) -> float:
        return float(flagged.mean())

    count, expected = int(flagged.sum()), rank / (len(real) + 1)
    needed = bisect_left(range(n + 1), True, key=lambda count: surprise(count) <= level)
    resamples = drawn_anew(share, random, flagged, together=near)
    found = _share(share(flagged), resamples, near)
    figures = {
        "flagged": count,
        "expected": n * expected,
        "needed": needed if needed <= n else None,
        "share": found,
        "p": surprise(count),
        "level": level,
        # A score interval supposes groups of about one size, and one image that is made again and
        # again is a group for itself: whether it is drawn, the resamples show.
        "copies": surprise(count) <= level and float(np.quantile(resamples, 0.025)) > expected,
        "threshold": threshold(real),
        "rank": rank,
        "nearer": measured(auc, random, d_fake, d_real, together=near),
        "relatively_nearer": measured(auc, random, fake, real, together=near),
        "distance": {"generated": spread(d_fake), "held_out": spread(d_real)},
        "relative_distance": {"generated": spread(fake), "held_out": spread(real)},
    }
    return figures, flagged


def resemblance(generated: np.ndarray, held_out: np.ndarray) -> Object:
    """Whether generated images look like the data at all: if they do not, none can be a copy, and
    that none is flagged says nothing.

    A generated image is unlike the data if its correlation with the training image that is most
    similar to it is below half the median of the held-out images. By this rule held-out images are
    never unlike as a whole, as half of them are at the median or above. Correlation, because a flat
    grey is as near to radiographs of little contrast as another radiograph is.

    Args:
        generated, held_out: ``(N,)`` and ``(H,)``, each image's highest correlation with a training
            image.
    """
    threshold = float(np.median(held_out)) / 2
    unlike = int((generated < threshold).sum())
    return {
        "generated": len(generated),
        "unlike": unlike,
        "share": unlike / len(generated),
        "threshold": threshold,
        "correlation": {"generated": spread(generated), "held_out": spread(held_out)},
    }


def tail_rank(count: int) -> int:
    """Which smallest value of ``count`` held-out ones is the threshold: 1 % of them, or the first.

    Not always the first: one held-out image that is in the training set too would hide all copies.
    """
    return max(1, math.floor(TAIL * (count + 1)))


def threshold(held_out: np.ndarray) -> float:
    """The value below which images are flagged."""
    rank = tail_rank(len(held_out))
    return float(np.partition(held_out, rank - 1)[rank - 1])


def chance(flagged: int, generated: int, held_out: int, rank: int) -> float:
    """P(at least so many are flagged) where generated and held-out values are exchangeable.

    That many are below the ``rank``-th smallest held-out value exactly if of the
    ``flagged + rank - 1`` smallest of all values at most ``rank - 1`` are held-out ones, and which
    of all values those are is a draw without replacement.
    """
    if flagged == 0:
        return 1.0
    drawn = flagged + rank - 1
    ways = sum(
        math.comb(held_out, k) * math.comb(generated, drawn - k)
        for k in range(min(rank - 1, held_out) + 1)
    )
    return ways / math.comb(generated + held_out, drawn)


def membership(seen: np.ndarray, unseen: np.ndarray, random: np.random.Generator) -> Object:
    """How well a score tells training images from held-out ones.

    The AUC is the chance that a training image scores lower than a held-out one. The test swaps
    the images of pairs at random.

    Args:
        seen, unseen: ``(M,)`` scores of training and held-out images, in pairs.
        random: draws the resamples and the swaps.
    """
    pairs = np.column_stack([seen, unseen])

    def of_pairs(pairs: np.ndarray) -> float:
        return auc(pairs[:, 0], pairs[:, 1])

    return {
        **measured(of_pairs, random, pairs),
        "p": swapping(seen, unseen, random),
    }


def swapping(seen: np.ndarray, unseen: np.ndarray, random: np.random.Generator) -> float:
    """P(an AUC as high or higher) if each pair might as well be the other way round."""
    _, place, counts = np.unique(
        np.concatenate([seen, unseen]), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # ties share their mean
    gain = ranks[len(seen) :] - ranks[: len(seen)]
    beaten = 0
    for _ in range(PERMUTATIONS):
        # The AUC falls with the sum of the training images' ranks, by which a swap adds its gain.
        beaten += int(gain[random.random(len(gain)) < 0.5].sum() <= 0)
    return (1 + beaten) / (1 + PERMUTATIONS)


def auc(lower: np.ndarray, higher: np.ndarray) -> float:
    """The chance that one of ``lower`` is below one of ``higher``, ties counted by half."""
    higher = np.sort(higher)
    below = np.searchsorted(higher, lower, "left") + np.searchsorted(higher, lower, "right")
    return float(1 - below.mean() / (2 * len(higher)))


def measured(
    statistic: Callable[..., float],
    random: np.random.Generator,
    *samples: np.ndarray,
    together: np.ndarray | None = None,
) -> Object:
    """An AUC of two samples, or of one sample of pairs, and its 95 % interval.

    The interval is :func:`xraygan.statistics.intervals.auc_interval`, so that it holds its level
    for few images and for an AUC of 1.

    Args:
        together: see :func:`drawn_anew`.
    """
    counts = [len(x) for x in samples]
    if together is not None:
        counts[0] = _groups(together)
    value = statistic(*samples)
    resamples = drawn_anew(statistic, random, *samples, together=together)
    variance = bootstrap_variance(resamples, min(counts))
    return {"auc": value, "interval": auc_interval(value, variance, counts[0], counts[-1])}


def _share(value: float, resamples: np.ndarray, together: np.ndarray) -> Object:
    """A share and its 95 % interval, which is not without width where none or all are flagged."""
    groups = _groups(together)
    interval = share_interval(value, bootstrap_variance(resamples, groups), groups)
    return {"value": value, "interval": interval}


def _groups(together: np.ndarray) -> int:
    """How many groups of one size would vary as much: (sum of sizes)^2 / sum of their squares.

    Source: Kish, Survey Sampling, 1965.
    """
    sizes = np.bincount(together).astype(np.float64)
    return max(1, int(sizes.sum() ** 2 / np.square(sizes).sum()))


def drawn_anew(
    statistic: Callable[..., float],
    random: np.random.Generator,
    *samples: np.ndarray,
    together: np.ndarray | None = None,
) -> np.ndarray:
    """A statistic in bootstrap resamples ``(B,)``, each sample drawn on its own.

    Args:
        together: a number in 0, 1, ... for each value of the first sample; values of one number
            are drawn together. Without it each is drawn on its own.
    """
    units = [np.arange(len(x)) for x in samples]
    if together is not None:
        units[0] = together
    values = np.empty(BOOTSTRAP)
    for i in range(BOOTSTRAP):
        values[i] = statistic(
            *(_drawn_anew(x, unit, random) for x, unit in zip(samples, units, strict=True))
        )
    return values


def _drawn_anew(x: np.ndarray, unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    count = unit.max() + 1
    times = np.bincount(random.integers(count, size=count), minlength=count)
    return np.repeat(x, times[unit], axis=0)


def spread(values: np.ndarray) -> Object:
    """The smallest value and some quantiles."""
    return {f"q{q:03.0%}"[:-1]: float(np.quantile(values, q)) for q in (0, 0.01, 0.1, 0.5, 0.9)}
