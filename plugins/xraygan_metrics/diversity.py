"""Whether generated images differ from each other as real ones do: MS-SSIM of random pairs."""

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
ENOUGH = 20  # pairs, for a normal interval of their mean
Z95 = 1.959964
C1, C2 = 0.01**2, 0.03**2  # of greys in [0, 1]


def scales(size: int) -> int:
    """How many times, from 1 to 5, an image can be halved and still hold the window; 0 if never."""
    return sum(size >> halvings >= WINDOW for halvings in range(len(EXPONENTS)))


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity ``(N,)`` of pairs of images.

    The product over M scales j, each half of the one before, of s_j^a_j. s_j is the mean over
    places of contrast and structure, (2 cov + C2) / (var_x + var_y + C2), at the coarsest scale
    times luminance, (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1), with moments under a Gaussian window;
    0 where that is negative. M is what :func:`scales` says, and the exponents a_j sum to 1.

    Args:
        x, y: ``(N, 1, S, S)`` in [0, 1].
    """
    count = scales(x.shape[-1])
    exponents = [a / sum(EXPONENTS[:count]) for a in EXPONENTS[:count]]
    product = torch.ones(len(x), dtype=x.dtype, device=x.device)
    for j, exponent in enumerate(exponents):
        luminance, structure = _similarity(x, y)
        at = structure * luminance if j == count - 1 else structure
        product = product * at.mean(dim=(1, 2, 3)).clamp(min=0) ** exponent
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at each place where the window fits."""
    place = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-place.square() / (2 * SIGMA**2))
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
    """MS-SSIM of random pairs of generated images, beside that of real pairs: diversity

    The mean multi-scale structural similarity of pairs, 1 for the same image twice. Generated
    images that are more alike than real ones (a larger figure) lack variety; less alike, they may
    be noise. By class too where the generator is conditional. There are 5 scales at 256 pixels, 4
    at 128, 3 at 64: as many as hold the window of 11 pixels. No image is in two pairs, so pairs are
    independent; intervals are normal ones of their mean, from 20 pairs on.

    Source: Wang et al., "Multiscale structural similarity for image quality assessment", 2003; for
    generators Odena et al., arXiv:1610.09585.

    Args:
        pairs: the most pairs of a kind.
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
        found = {}
        for kind, (images, labels) in kinds.items():
            groups = {f"ms_ssim/{kind}": np.arange(len(images))}
            if generator.conditional:
                for name, column in evaluation.classes.items():
                    groups[f"ms_ssim/{kind}/{name}"] = np.flatnonzero(labels[:, column])
            for name, rows in groups.items():
                found[name] = self._mean(evaluation, name, images, torch.from_numpy(rows))
        return found

    def _mean(self, evaluation: Evaluation, name: str, images: Tensor, rows: Tensor) -> Measurement:
        """The mean over random pairs of some of the images."""
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
        found, interval = torch.cat(values), None
        value = float(found.mean())
        if count >= ENOUGH:
            half = Z95 * float(found.std()) / math.sqrt(count)
            interval = (max(value - half, 0.0), min(value + half, 1.0))
        return Measurement(value, 2 * count, interval, note, better="lower")
