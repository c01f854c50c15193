"""The bootstrap: a figure in resamples of patients or of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xraygan.utils.seeding import derive_seed


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    units: int,
    image_weights: Callable[[np.ndarray], np.ndarray],
    resamples: int,
) -> np.ndarray:
    """The statistic in each resample, ``(B,)``.

    Args:
        statistic: the figure from image weights ``(N,)``.
        units: number of units (patients or images) that are drawn with replacement.
        image_weights: maps how often each unit was drawn, ``(units,)``, to image weights.
        resamples: B.
    """
    # The seed does not depend on the run's, so that compared runs share the resamples.
    random = np.random.default_rng(derive_seed(0, "bootstrap"))
    values = np.empty(resamples)
    for i in range(resamples):
        counts = np.bincount(random.integers(units, size=units), minlength=units)
        values[i] = statistic(image_weights(counts).astype(np.float64))
    return values
