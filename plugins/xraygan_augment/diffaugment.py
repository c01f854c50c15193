"""Differentiable augmentation of Zhao et al., for grey images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xraygan import Augmenter, Step

Change = Literal["color", "translation", "cutout"]

#: the largest shift, and the side of the square that is cut out, as shares of the image's side
FARTHEST, HOLE = 1 / 8, 1 / 2


class DiffAugment(Augmenter):
    """DiffAugment: random brightness, contrast, translation and cutout of every image

    "color", for grey images: x + b with b uniform in [-0.5, 0.5], then the differences from the
    mean times c, uniform in [0.5, 1.5]. "translation": a shift by whole pixels, up to an eighth of
    the side in each direction; the uncovered part is grey (0). "cutout": a square of half the side
    becomes grey; its centre is anywhere in the image, so part of it may be outside. They are
    applied in this order.

    Source: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training,
    arXiv:2006.10738.

    Args:
        policy: the changes to apply; all is the paper's choice for few images.
    """

    def __init__(self, *, policy: tuple[Change, ...] = ("color", "translation", "cutout")) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, images: Tensor, step: Step) -> Tensor:
        random = step.draw(lambda n: torch.rand(n, 6, generator=step.rng, device=images.device))
        brightness, contrast, *places = random.unbind(dim=1)
        size = images.shape[-1]
        if "color" in self.policy:
            images = recoloured(images, brightness - 0.5, contrast + 0.5)
        if "translation" in self.policy:
            far = int(size * FARTHEST + 0.5)
            images = moved(images, *(_whole(place, -far, far) for place in places[:2]))
        if "cutout" in self.policy:
            side = int(size * HOLE + 0.5)
            last = size - side % 2
            images = cut(images, *(_whole(place, 0, last) for place in places[2:]), side=side)
        return images


def _whole(uniform: Tensor, low: int, high: int) -> Tensor:
    """Map uniform numbers in [0, 1) to uniform integers from ``low`` to ``high``."""
    count = high - low + 1
    return (uniform * count).long().clamp(max=count - 1) + low  # a product may be rounded up


def recoloured(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Add ``brightness`` and multiply the contrast of images ``(n, 1, S, S)``, both ``(n,)``."""
    images = images + brightness[:, None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * contrast[:, None, None, None]


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move images ``(n, 1, S, S)`` by whole pixels ``(n,)``; the uncovered part is 0.

    A product with a matrix of zeros and ones on each side selects rows and columns. Unlike
    indexing, its gradient is computed in the same order each time on any device.
    """
    index = torch.arange(images.shape[-1], device=images.device)

    def selection(shift: Tensor) -> Tensor:
        return (index[:, None] - shift[:, None, None] == index).to(images.dtype)[:, None]

    return selection(down) @ images @ selection(right).mT


def cut(images: Tensor, row: Tensor, column: Tensor, *, side: int) -> Tensor:
    """Set a square of images ``(n, 1, S, S)`` to 0; it starts at (row, column) - side // 2."""
    index = torch.arange(images.shape[-1], device=images.device)

    def within(centre: Tensor) -> Tensor:
        start = centre[:, None] - side // 2
        return (index >= start) & (index < start + side)

    hole = within(row)[:, None, :, None] & within(column)[:, None, None, :]
    return images.masked_fill(hole, 0.0)
