"""The blocks of FastGAN's generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xraygan.plugin_api import ConditionalNorm, doubled

POOLED = 4  # side to which skip-layer excitation pools a coarse map


def constrained(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """A convolution with weights N(0, 0.02), divided by their largest singular value."""
    nn.init.normal_(layer.weight, 0.0, 0.02)
    return spectral_norm(layer)


def convolution(before: int, after: int, size: int = 3, padding: int = 1) -> nn.Module:
    """A spectrally normalized convolution without bias."""
    return constrained(nn.Conv2d(before, after, size, padding=padding, bias=False))


class NoiseInjection(nn.Module):
    """x + w e, with one noise value e ~ N(0, 1) for each image and position, and a learned w

    w starts at 0. In training e is drawn anew in each pass. In evaluation mode it is one fixed map,
    so that an image is a function of its latent vector and label alone.

    Args:
        side: height and width of the maps.
    """

    fixed: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("fixed", torch.randn(1, 1, side, side))

    def forward(self, x: Tensor) -> Tensor:
        noise = self.fixed
        if self.training:
            noise = torch.randn(len(x), *noise.shape[1:], device=x.device)
        return x + self.weight.to(x.dtype) * noise.to(x.dtype)


def gated(maps: Tensor) -> Tensor:
    """The gated linear unit of maps ``(N, 2 C, h, w)``: ``a * sigmoid(b)`` of their halves a and b.

    Not F.glu: its gradient on processors is not in channels_last, in which maps are, and a batch
    norm takes 25 times as long for a gradient in another memory format.
    """
    a, b = maps.chunk(2, dim=1)
    return a * b.sigmoid()


class Stem(nn.Module):
    """z to 4 x 4 maps: transposed convolution, batch norm, gated linear unit.

    It takes z alone. The batch norm scales what differs within a batch to a variance of 1. If it
    took an embedding of the label as well, the differences between classes could supply this
    variance by themselves, and the images of a class would become one image.
    """

    def __init__(self, latent_size: int, channels: int) -> None:
        super().__init__()
        layer = nn.ConvTranspose2d(latent_size, 2 * channels, POOLED, bias=False)
        self.dense = constrained(layer)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, z: Tensor) -> Tensor:
        # The length of a normal vector says nothing of the image: only its direction is used.
        z = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        return gated(self.norm(self.dense(z[:, :, None, None])))


class Up(nn.Module):
    """A block that doubles the size: nearest upsampling, then [3 x 3 convolution, noise, norm,
    gated linear unit], twice where it is ``deep``; a shallow block has no noise.

    Args:
        side: height and width of the maps that it returns.
        conditions: see :class:`xraygan.plugin_api.ConditionalNorm`.
        deep: two convolutions with noise instead of one without.
    """

    def __init__(self, before: int, after: int, side: int, conditions: int, *, deep: bool) -> None:
        super().__init__()
        widths = (before, after) if deep else (before,)
        self.convolutions = nn.ModuleList(convolution(width, 2 * after) for width in widths)
        self.norms = nn.ModuleList(ConditionalNorm(2 * after, conditions) for _ in widths)
        self.noises = nn.ModuleList(NoiseInjection(side) if deep else nn.Identity() for _ in widths)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = doubled(x)
        layers = zip(self.convolutions, self.noises, self.norms, strict=True)
        for convolve, noise, norm in layers:
            x = gated(norm(noise(convolve(x)), condition))
        return x


class SkipExcitation(nn.Module):
    """Skip-layer excitation: a gate in (0, 1) for each channel of a fine map, from a coarse one

    fine * sigmoid(W_2 silu(W_1 pool(coarse))): the coarse map is averaged to 4 x 4, W_1 is a 4 x 4
    and W_2 a 1 x 1 convolution.

    Source: Liu et al., arXiv:2101.04775, Sec. 3.1.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.first = convolution(coarse, fine, POOLED, padding=0)
        self.second = convolution(fine, fine, 1, padding=0)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        # As means of equal squares, whose gradient is computed in the same order on every device.
        pooled = F.avg_pool2d(coarse, coarse.shape[-1] // POOLED)
        return fine * self.second(F.silu(self.first(pooled))).sigmoid()
