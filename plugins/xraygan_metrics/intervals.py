"""Jackknife intervals, for figures that a bootstrap would bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from xraygan import Measurement

BLOCKS = 10  # number of blocks of the jackknife
T95 = 2.262157  # Student's t of BLOCKS - 1 degrees of freedom; the normal 1.96 would cover 92 %


def with_jackknife(
    statistic: Callable[[np.ndarray], float],
    generated: np.ndarray,
    note: str,
    *,
    better: Literal["higher", "lower"],
    low: float = -math.inf,
    high: float = math.inf,
) -> Measurement:
    """A figure of generated images with a 95 % interval from a delete-one-block jackknife.

    The figure is computed without each of ten blocks of the generated images in turn; the variance
    of the ten values gives the interval. A bootstrap would be biased, since repeated images shrink
    a covariance and are each other's nearest neighbours. The real images are held fixed. There
    is no interval with fewer than two images in a block, or if all ten values are equal (a share of
    0, for example), since that says nothing about other images.

    Args:
        statistic: computes the figure from the features of some generated images.
        generated: ``(M, ...)``, the features of the generated images.
        note: the protocol, to which the protocol of the interval is added.
        better: see :class:`Measurement`.
        low, high: the bounds of the figure.
    """
    value, count = statistic(generated), len(generated)
    limits = (low, high) if math.isfinite(low) and math.isfinite(high) else None
    if count < 2 * BLOCKS:
        return Measurement(value, count, note=note, better=better, limits=limits)
    blocks = np.array_split(np.arange(count), BLOCKS)
    without = np.array([statistic(np.delete(generated, block, axis=0)) for block in blocks])
    spread = T95 * math.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - without.mean()).sum())
    if spread == 0:
        note = f"{note}; no interval: the figure is the same without each of {BLOCKS} blocks"
        return Measurement(value, count, note=note, better=better, limits=limits)
    note = f"{note}; interval by a jackknife over {BLOCKS} blocks of the generated images"
    interval = (max(value - spread, low), min(value + spread, high))
    return Measurement(value, count, interval, note, better=better, limits=limits)
