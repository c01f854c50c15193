"""The diversity of generated images, compared with real images: MS-SSIM of random pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xraygan import Evaluation, Measurement, Metric
from xraygan.plugin_api import rng

#: exponents of the scales, the finest first
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5  # pixels
ENOUGH = 20  # number of pairs from which on the mean has a normal interval
Z95 = 1.959964
C1, C2 = 0.01**2, 0.03**2  # of greys in [0, 1]


def scales(size: int) -> int:
    """The number of scales, 0 to 5, at which an image of ``size`` pixels is as large as the window.

    Each scale halves the size of the one before.
    """
    return sum(size >> halvings >= WINDOW for halvings in range(len(EXPONENTS)))


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity ``(N,)`` of pairs of images.

    The product of s_j^a_j over M scales j, each half the size of the one before. s_j is the mean
    over positions of contrast times structure, (2 cov + C2) / (var_x + var_y + C2), at the coarsest
    scale also times luminance, (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1), and 0 if that mean is
    negative. The moments are under a Gaussian window. M is :func:`scales` of the size, and the
    exponents a_j are scaled to sum to 1.

    Args:
        x, y: ``(N, 1, S, S)`` in [0, 1].
    """
    count = scales(x.shape[-1])
    exponents = [a / sum(EXPONENTS[:count]) for a in EXPONENTS[:count]]
    product = torch.ones(len(x), dtype=x.dtype, device=x.device)
    for j, exponent in enumerate(exponents):
        luminance, structure = _similarity(x, y)
        similarity = structure * luminance if j == count - 1 else structure
        product = product * similarity.mean(dim=(1, 2, 3)).clamp(min=0) ** exponent
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at each position where the window fits."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()

    def blurred(images: Tensor) -> Tensor:
        rows = F.conv2d(images, window.view(1, 1, -1, 1))
        return F.conv2d(rows, window.view(1, 1, 1, -1))

    mean_x, mean_y = blurred(x), blurred(y)
    both = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    variances = blurred(x.square() + y.square()) - squares
    covariance = blurred(x * y) - both
    return (2 * both + C1) / (squares + C1), (2 * covariance + C2) / (variances + C2)


class MSSSIM(Metric):
    """Diversity: MS-SSIM of random pairs of generated images, beside that of real pairs

    The mean multi-scale structural similarity of pairs; 1 for two equal images. If the figure of
    generated images is larger than that of real images, they lack variety; if it is smaller, they
    may be noise. A conditional generator is measured by class too. The number of scales is 5 at 256
    pixels, 4 at 128 and 3 at 64, so that the window of 11 pixels fits. No image is in two pairs, so
    the pairs are independent; the intervals are normal intervals of the mean, from 20 pairs on.

    Source: Wang et al., "Multiscale structural similarity for image quality assessment", 2003; for
    generators Odena et al., arXiv:1610.09585.

    Args:
        pairs: number of generated pairs, and of real pairs, at most (of each class too).
    """

    def __init__(self, *, pairs: Annotated[int, Field(gt=0, le=1_000_000)] = 500) -> None:
        self.pairs = pairs

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        generator = evaluation.networks.get("generator")
        if generator is None:
            return {}
        kinds = {
            "generated": (evaluation.fake_images, evaluation.fake_labels.numpy()),
            "real": (evaluation.reference_images, evaluation.reference_labels),
        }
        figures = {}
        for kind, (images, labels) in kinds.items():
            groups = {f"ms_ssim/{kind}": np.arange(len(images))}
            if generator.conditional:
                for name, column in evaluation.classes.items():
                    groups[f"ms_ssim/{kind}/{name}"] = np.flatnonzero(labels[:, column])
            for name, rows in groups.items():
                figures[name] = self._mean(evaluation, name, images, torch.from_numpy(rows))
        return figures

    def _mean(self, evaluation: Evaluation, name: str, images: Tensor, rows: Tensor) -> Measurement:
        """The mean over random pairs of the images in ``rows``."""
        size = images.shape[-1]
        source = rng("cpu", evaluation.seed, name)
        order = rows[torch.randperm(len(rows), generator=source)]
        count = min(len(rows) // 2, self.pairs)
        note = f"{count} pairs, {scales(size)} scales"
        if not count or not scales(size):
            few = "too few images" if scales(size) else f"no {WINDOW} pixels across"
            return Measurement(None, 2 * count, note=f"{note}: {few}", better="lower")
        batch = evaluation.batch_size
        values = []
        for pair in order[: 2 * count].view(-1, 2).split(batch):
            x, y = (images[pair[:, i]].to(evaluation.device)[:, None] / 255.0 for i in (0, 1))
            values.append(ms_ssim(x.double(), y.double()).cpu())
        similarities, interval = torch.cat(values), None
        value = float(similarities.mean())
        if count >= ENOUGH:
            half = Z95 * float(similarities.std()) / math.sqrt(count)
            interval = (max(value - half, 0.0), min(value + half, 1.0))
        return Measurement(value, 2 * count, interval, note, better="lower")
