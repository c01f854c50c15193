"""Differentiable augmentation of Zhao et al., for grey images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xraygan import Augmenter, Step

Change = Literal["color", "translation", "cutout"]

#: of the side: how far images are moved, and the side of the square that is cut out
FARTHEST, HOLE = 1 / 8, 1 / 2


class DiffAugment(Augmenter):
    """DiffAugment: every image brighter or darker, moved, and with a square cut out

    "color", of grey images brightness and contrast: x + b, b uniform in [-0.5, 0.5], then its mean
    kept and what differs from it times c, c uniform in [0.5, 1.5]. "translation": by whole pixels,
    up to an eighth of the side each way, grey (0) where nothing is left. "cutout": a square of half
    the side becomes grey; its centre is anywhere, so it may reach out of the image. In this order.

    Source: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training,
    arXiv:2006.10738.

    Args:
        policy: which of the three; the paper's choice for few images is all.
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
    """Numbers in [0, 1) as whole ones from ``low`` to ``high``, each as likely."""
    count = high - low + 1
    return (uniform * count).long().clamp(max=count - 1) + low  # a product may be rounded up


def recoloured(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Images ``(n, 1, S, S)`` with ``(n,)`` added, and their contrast times ``(n,)``."""
    images = images + brightness[:, None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * contrast[:, None, None, None]


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images ``(n, 1, S, S)`` moved by whole pixels ``(n,)``, 0 where nothing is left.

    A row of the result is one of the image or none, so that moving is a product with zeros and
    ones, which any device differentiates in the same order each time.
    """
    place = torch.arange(images.shape[-1], device=images.device)

    def from_where(by: Tensor) -> Tensor:
        return (place[:, None] - by[:, None, None] == place).to(images.dtype)[:, None]

    return from_where(down) @ images @ from_where(right).mT


def cut(images: Tensor, row: Tensor, column: Tensor, *, side: int) -> Tensor:
    """Images ``(n, 1, S, S)`` with 0 in a square from (row, column) - side // 2 on."""
    place = torch.arange(images.shape[-1], device=images.device)

    def within(centre: Tensor) -> Tensor:
        start = centre[:, None] - side // 2
        return (place >= start) & (place < start + side)

    hole = within(row)[:, None, :, None] & within(column)[:, None, None, :]
    return images.masked_fill(hole, 0.0)
