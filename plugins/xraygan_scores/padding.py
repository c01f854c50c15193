"""Convolutions with reflection padding whose gradients have a fixed order on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def reflected(maps: Tensor, padding: int) -> Tensor:
    """Maps ``(N, C, H, W)`` with a reflected border: ``(N, C, H + 2 p, W + 2 p)``.

    The values of ``F.pad(..., mode="reflect")``, put together from slices: CUDA adds up the
    gradients of that function in no fixed order, and those of slices in a fixed one.

    Args:
        padding: p, less than H and W.
    """
    for dim in (3, 2):
        size = maps.shape[dim]
        before = maps.narrow(dim, 1, padding).flip(dim)
        after = maps.narrow(dim, size - 1 - padding, padding).flip(dim)
        maps = torch.cat([before, maps, after], dim=dim)
    return maps


class ReflectedConv2d(nn.Conv2d):
    """A convolution of maps with a reflected border, which keeps their size at stride 1.

    Args:
        padding: width of the border.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__(before, after, kernel, stride, padding, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # where PyTorch's own padding is deterministic, and faster
            return super().forward(x)
        x = reflected(x, int(self.padding[0]))
        return F.conv2d(x, self.weight, self.bias, self.stride)
