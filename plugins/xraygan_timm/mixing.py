"""The fixed random mixing of a pretrained network's features across channels and scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def doubling(side: int, device: torch.device | None = None) -> Tensor:
    """The matrix ``(2 side, side)`` of linear interpolation to twice the size, corners aligned."""
    unit = torch.eye(side, device=device)[:, None]
    return nn.functional.interpolate(unit, 2 * side, mode="linear", align_corners=True)[:, 0].T


class Mixing(nn.Module):
    """Cross-channel and cross-scale mixing with fixed random weights

    Cross-channel: a random 1 x 1 convolution of each scale's features, to C, 2 C, 4 C and 8 C
    channels from the finest scale to the coarsest. Cross-scale, from the coarsest to the finest:
    the map of a scale is a random 3 x 3 convolution of its mixed features plus the coarser map,
    interpolated to twice its size. Each convolution but the finest halves the channels, to those of
    the next finer scale. Thus every discriminator sees what the coarser scales contain, and none
    can look at single channels alone.

    Source: Sauer et al., arXiv:2111.01007, Sec. 3.2 and 4.

    Args:
        channels: those of the features of each scale, from the finest to the coarsest.
        width: C.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        mixed = [width * 2**i for i in range(len(channels))]
        #: channels of the maps that it returns, from the finest to the coarsest
        self.channels = [mixed[max(i - 1, 0)] for i in range(len(mixed))]
        self.across_channels = nn.ModuleList(
            nn.Conv2d(before, after, 1) for before, after in zip(channels, mixed, strict=True)
        )
        self.across_scales = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(mixed, self.channels, strict=True)
        )
        for layer in (*self.across_channels, *self.across_scales):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.requires_grad_(False)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Mix features ``(N, C_i, S_i, S_i)``, each of half the side of the one before it."""
        maps: list[Tensor] = []
        layers = zip(features, self.across_channels, self.across_scales, strict=True)
        for x, channel_mixing, scale_mixing in reversed(list(layers)):
            x = channel_mixing(x)
            if maps:
                # As a product with a matrix: the gradient of interpolation has no fixed order on a
                # GPU.
                coarse = maps[-1]
                rows = doubling(coarse.shape[-1], coarse.device).to(coarse.dtype)
                x = x + rows @ coarse @ rows.mT
            maps.append(scale_mixing(x))
        return maps[::-1]
