"""Intervals of figures that a bootstrap would bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from xraygan import Measurement

BLOCKS = 10  # of the jackknife
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

    Ten blocks of the generated images are left out in turn. A bootstrap would be biased here:
    repeated images shrink a covariance, and are each other's nearest neighbours. The training
    images are held fixed. No interval with fewer than two images a block, nor where the blocks all
    agree (a share of 0, say): that tells nothing of other images.

    Args:
        statistic: the figure of some of the generated images.
        generated: ``(M, ...)``, the images' features.
        note: the protocol; the interval's is added.
        better: see :class:`Measurement`.
        low, high: what the figure cannot be below and above.
    """
    value, count = statistic(generated), len(generated)
    limits = (low, high) if math.isfinite(low) and math.isfinite(high) else None
    if count < 2 * BLOCKS:
        return Measurement(value, count, note=note, better=better, limits=limits)
    blocks = np.array_split(np.arange(count), BLOCKS)
    without = np.array([statistic(np.delete(generated, block, axis=0)) for block in blocks])
    spread = T95 * math.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - without.mean()).sum())
    if spread == 0:
        note = f"{note}; no interval, for it is the same without each of {BLOCKS} blocks"
        return Measurement(value, count, note=note, better=better, limits=limits)
    note = f"{note}; interval by a jackknife over {BLOCKS} blocks of the generated images"
    interval = (max(value - spread, low), min(value + spread, high))
    return Measurement(value, count, interval, note, better=better, limits=limits)
