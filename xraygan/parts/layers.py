"""Layers that several networks have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygan.utils.tensors import as_float32


class ConditionalNorm(nn.Module):
    """Batch norm with gains and biases that are linear in a condition

    ``(g + G c) (x - mean) / sqrt(var + eps) + b + B c`` for a condition c, ``(N, M)``: each class
    has its own gain and bias in each channel, and an image with several findings has their sums.

    Source: Dumoulin et al., arXiv:1610.07629; Miyato and Koyama, arXiv:1802.05637.

    Args:
        conditions: M; 0 for a plain batch norm.
    """

    def __init__(self, channels: int, conditions: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not conditions)
        self.conditional = conditions > 0
        if self.conditional:
            self.gain, self.bias = (nn.Linear(conditions, channels) for _ in range(2))
            for layer, start in ((self.gain, 1.0), (self.bias, 0.0)):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                nn.init.constant_(layer.bias, start)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norm(x)
        if not self.conditional:
            return x
        return self.gain(condition)[:, :, None, None] * x + self.bias(condition)[:, :, None, None]


def doubled(maps: Tensor) -> Tensor:
    """Maps ``(N, C, h, w)`` at twice the size, ``(N, C, 2 h, 2 w)``: each value four times.

    In the type of the maps: CUDA's autocast would compute this in float32, and what follows too.
    """
    if maps.device.type != "cuda":
        return F.interpolate(maps, scale_factor=2, mode="nearest")
    with torch.autocast("cuda", enabled=False):
        return F.interpolate(maps, scale_factor=2, mode="nearest")


def with_deviation(maps: Tensor) -> Tensor:
    """Append a constant map to maps ``(N, C, h, w)`` that shows a batch without variety.

    Its value is the mean over channels and positions of sqrt(var + 1e-8) over the N images.

    Source: Sec. 3 of Karras et al., arXiv:1710.10196.
    """
    deviation = (as_float32(maps).var(dim=0, correction=0) + 1e-8).sqrt().mean().to(maps.dtype)
    return torch.cat([maps, deviation.expand(len(maps), 1, *maps.shape[2:])], dim=1)
