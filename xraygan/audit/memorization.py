"""The statistics of an audit: are generated images too near to the training images?

Two tests, which assume no distribution of distances. :func:`flag_copies` compares generated with
held-out images by their distances to the training images. :func:`membership` compares training with
held-out images by their distances to the generated images.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

from xraygan.statistics.intervals import auc_interval, bootstrap_variance, share_interval

from .nearest_neighbors import Neighbours

LEVEL = 0.05  # level of each test: the highest rate of false claims
TAIL = 0.01  # share of held-out images whose relative distance is below that of a flagged image
BOOTSTRAP = 1000
PERMUTATIONS = 9999

Object = dict[str, Any]


def relative(neighbours: Neighbours) -> np.ndarray:
    """The distance of each query to its nearest neighbour over the mean of the others, ``(Q,)``.

    In [0, 1]. It separates a copy from an image that is near to all images, such as a blurred one,
    whose second and third neighbours are about as near as the nearest. 1 for a query with a single
    neighbour, and if all distances are 0.

    Source: after Carlini et al., arXiv:2301.13188, who divide by the mean distance to the 50
    nearest.
    """
    if neighbours.distances.shape[1] < 2:
        return np.ones(len(neighbours.distances))
    return ratio(neighbours.distances[:, 0], neighbours.distances[:, 1:].mean(axis=1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 1 if both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above == 0) & (below == 0), 1.0, above / below)


def flag_copies(
    generated: Neighbours, held_out: Neighbours, level: float, random: np.random.Generator
) -> tuple[Object, np.ndarray]:
    """Flag generated images that are relatively nearer to a training image than real images are.

    An image is flagged if its relative distance is below the ``rank``-th smallest of the held-out
    images; about 1 % of fresh images would be. The claim of copies needs two things: more images
    are flagged than chance explains (``p``), and the lower end of the flagged share's interval is
    above the expected share.

    Args:
        generated, held_out: their nearest training images.
        level: the level of the test.
        random: draws the resamples.

    Returns:
        The figures, and which generated images are flagged, ``(N,)`` bool.
    """
    fake, real = relative(generated), relative(held_out)
    n, rank = len(fake), tail_rank(len(real))
    flagged = fake < threshold(real)
    # Images with the same nearest training image are drawn together in the resamples, since a
    # generator without variety makes the same image many times.
    groups = np.unique(generated.rows[:, 0], return_inverse=True)[1]

    def p_value(count: int) -> float:
        return chance_of_flags(count, n, len(real), rank)

    def share(flagged: np.ndarray) -> float:
        return float(flagged.mean())

    count, expected = int(flagged.sum()), rank / (len(real) + 1)
    needed = bisect_left(range(n + 1), True, key=lambda count: p_value(count) <= level)
    resamples = resample(share, random, flagged, groups=groups)
    figures = {
        "flagged": count,
        "expected": n * expected,
        "needed": needed if needed <= n else None,
        "share": _share(share(flagged), resamples, groups),
        "p": p_value(count),
        "level": level,
        # By the resamples: a score interval assumes groups of similar size, and an image that was
        # generated many times is one large group.
        "copies": p_value(count) <= level and float(np.quantile(resamples, 0.025)) > expected,
        "threshold": threshold(real),
        "rank": rank,
    }
    return figures | _compare_distances(generated, held_out, groups, random), flagged


def _compare_distances(
    generated: Neighbours, held_out: Neighbours, groups: np.ndarray, random: np.random.Generator
) -> Object:
    """AUCs and quantiles of the distances of generated and of held-out images."""
    fake, real = relative(generated), relative(held_out)
    d_fake, d_real = generated.distances[:, 0], held_out.distances[:, 0]
    return {
        "nearer": auc_with_interval(auc, random, d_fake, d_real, groups=groups),
        "relatively_nearer": auc_with_interval(auc, random, fake, real, groups=groups),
        "distance": {"generated": spread(d_fake), "held_out": spread(d_real)},
        "relative_distance": {"generated": spread(fake), "held_out": spread(real)},
    }


def resemblance(generated: np.ndarray, held_out: np.ndarray) -> Object:
    """Whether generated images look like the data at all.

    If they do not, none can be a copy, and the test for copies shows nothing. A generated image is
    unlike the data if its correlation with the most similar training image is below half the median
    of the held-out images. At least half of the held-out images are above that by definition. The
    measure is correlation, since a flat grey is as near to radiographs of low contrast as another
    radiograph is.

    Args:
        generated, held_out: ``(N,)`` and ``(H,)``, the highest correlation of each image with a
            training image.
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
    """The rank of the threshold among ``count`` held-out values: 1 % of them, at least 1.

    Not always 1, since a single held-out image that is also in the training set would then hide all
    copies.
    """
    return max(1, math.floor(TAIL * (count + 1)))


def threshold(held_out: np.ndarray) -> float:
    """The value below which images are flagged."""
    rank = tail_rank(len(held_out))
    return float(np.partition(held_out, rank - 1)[rank - 1])


def chance_of_flags(flagged: int, generated: int, held_out: int, rank: int) -> float:
    """P(at least this many are flagged) if generated and held-out values are exchangeable.

    At least ``flagged`` generated values are below the ``rank``-th smallest held-out value exactly
    if at most ``rank - 1`` of the ``flagged + rank - 1`` smallest values are held-out ones. These
    smallest values are a draw without replacement from all values.
    """
    if flagged == 0:
        return 1.0
    drawn = flagged + rank - 1
    ways = sum(
        math.comb(held_out, k) * math.comb(generated, drawn - k)
        for k in range(min(rank - 1, held_out) + 1)
    )
    return ways / math.comb(generated + held_out, drawn)


def membership(members: np.ndarray, non_members: np.ndarray, random: np.random.Generator) -> Object:
    """How well a score separates training images (members) from held-out images (non-members).

    The AUC is the chance that a member scores lower than a non-member. The test swaps the images of
    pairs at random.

    Args:
        members, non_members: ``(M,)`` scores, in pairs.
        random: draws the resamples and the swaps.
    """
    pairs = np.column_stack([members, non_members])

    def of_pairs(pairs: np.ndarray) -> float:
        return auc(pairs[:, 0], pairs[:, 1])

    return {
        **auc_with_interval(of_pairs, random, pairs),
        "p": permutation_p_value(members, non_members, random),
    }


def permutation_p_value(
    members: np.ndarray, non_members: np.ndarray, random: np.random.Generator
) -> float:
    """P(an AUC as high or higher) if the images of each pair are exchangeable."""
    _, index, counts = np.unique(
        np.concatenate([members, non_members]), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]  # ties share their mean
    gain = ranks[len(members) :] - ranks[: len(members)]
    exceeding = 0
    for _ in range(PERMUTATIONS):
        # The AUC falls with the sum of the members' ranks, to which a swapped pair adds its gain.
        exceeding += int(gain[random.random(len(gain)) < 0.5].sum() <= 0)
    return (1 + exceeding) / (1 + PERMUTATIONS)


def auc(lower: np.ndarray, higher: np.ndarray) -> float:
    """The chance that a value of ``lower`` is below one of ``higher``; ties count as half."""
    higher = np.sort(higher)
    below = np.searchsorted(higher, lower, "left") + np.searchsorted(higher, lower, "right")
    return float(1 - below.mean() / (2 * len(higher)))


def auc_with_interval(
    statistic: Callable[..., float],
    random: np.random.Generator,
    *samples: np.ndarray,
    groups: np.ndarray | None = None,
) -> Object:
    """An AUC of two samples, or of one sample of pairs, and its 95 % interval.

    The interval is of :func:`xraygan.statistics.intervals.auc_interval`, which keeps its level for
    few images and for an AUC of 1.

    Args:
        groups: see :func:`resample`.
    """
    counts = [len(x) for x in samples]
    if groups is not None:
        counts[0] = _effective_groups(groups)
    value = statistic(*samples)
    resamples = resample(statistic, random, *samples, groups=groups)
    variance = bootstrap_variance(resamples, min(counts))
    return {"auc": value, "interval": auc_interval(value, variance, counts[0], counts[-1])}


def _share(value: float, resamples: np.ndarray, groups: np.ndarray) -> Object:
    """A share and its 95 % interval, which has a width even if none or all are flagged."""
    count = _effective_groups(groups)
    interval = share_interval(value, bootstrap_variance(resamples, count), count)
    return {"value": value, "interval": interval}


def _effective_groups(groups: np.ndarray) -> int:
    """The number of equal groups that would vary as much: (sum of sizes)^2 / sum of squared sizes.

    Source: Kish, Survey Sampling, 1965.
    """
    sizes = np.bincount(groups).astype(np.float64)
    return max(1, int(sizes.sum() ** 2 / np.square(sizes).sum()))


def resample(
    statistic: Callable[..., float],
    random: np.random.Generator,
    *samples: np.ndarray,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """A statistic in bootstrap resamples ``(B,)``; the samples are drawn independently.

    Args:
        groups: the group 0, 1, ... of each value of the first sample; the values of a group are
            drawn together. By default each value is its own group.
    """
    units = [np.arange(len(x)) for x in samples]
    if groups is not None:
        units[0] = groups
    values = np.empty(BOOTSTRAP)
    for i in range(BOOTSTRAP):
        values[i] = statistic(
            *(_draw_units(x, unit, random) for x, unit in zip(samples, units, strict=True))
        )
    return values


def _draw_units(x: np.ndarray, unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    count = unit.max() + 1
    times = np.bincount(random.integers(count, size=count), minlength=count)
    return np.repeat(x, times[unit], axis=0)


def spread(values: np.ndarray) -> Object:
    """The smallest value and some quantiles."""
    return {f"q{q:03.0%}"[:-1]: float(np.quantile(values, q)) for q in (0, 0.01, 0.1, 0.5, 0.9)}
