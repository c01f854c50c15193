"""The Kernel Inception Distance (KID), in the features of any network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xraygan import Evaluation, Measurement

from .features import FeatureMetric, image_counts
from .intervals import with_jackknife

CHUNK = 512  # rows of a kernel matrix that are in memory at a time


def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of k(x_i, y_j) = (x_i . y_j / D + 1)^3 over all i and j.

    Args:
        x, y: ``(N, D)`` and ``(M, D)`` float64.
    """
    rows = (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))
    return sum(float(_kernel(part @ y.T, x.shape[1]).sum()) for part in rows) / (len(x) * len(y))


def mean_kernel_within(x: np.ndarray) -> float:
    """Mean of k(x_i, x_j) over i != j."""
    n = len(x)
    diagonal = _kernel(np.square(x).sum(axis=1), x.shape[1]).mean()
    return float((n * mean_kernel(x, x) - diagonal) / (n - 1))


def _kernel(products: np.ndarray, width: int) -> np.ndarray:
    return (products / width + 1) ** 3


class KID(FeatureMetric):
    """Kernel Inception Distance (KID): unbiased squared MMD of features with a cubic kernel

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j), with
    k(x, y) = (x . y / D + 1)^3, for real images x and generated images y. Its expectation does
    not depend on the number of images, so it is suitable for few images; it can be negative. It
    compares all images, not subsets. It is comparable with published figures only with
    extractor = "inception". The interval is a jackknife over ten blocks of the generated images.

    Source: Binkowski et al., arXiv:1801.01401.

    Args:
        extractor: "classifier" for the run's own classifier, or a name of [extractors].
    """

    def __init__(self, *, extractor: str = "classifier") -> None:
        self.extractor = extractor

    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, space: str
    ) -> Mapping[str, Measurement]:
        key, note = f"kid/{self.extractor}", f"{space}; {image_counts(evaluation, real, generated)}"
        if min(len(real), len(generated)) < 2:
            few = Measurement(None, len(generated), note=f"{note}: too few", better="lower")
            return {key: few}
        within = mean_kernel_within(real)

        def distance(some: np.ndarray) -> float:
            return within + mean_kernel_within(some) - 2 * mean_kernel(real, some)

        return {key: with_jackknife(distance, generated, note, better="lower")}
