"""The blocks of the residual networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from xraygan import UserError
from xraygan.plugin_api import ConditionalNorm, doubled

SIZES = (32, 64, 128, 256, 512)
COARSEST = 4  # side of the coarsest feature map, in pixels
MAX_FACTOR = 8  # most channels of a map, in multiples of those of the finest map


def widths_for(image_size: int, width: int, attention: int) -> list[int]:
    """Channels from the finest feature map to the 4 x 4 map: doubled each time, at most 8 width.

    Args:
        attention: side of the map with self-attention, in pixels, to check; 0 for none.

    Raises:
        UserError: the image size is not one of ``SIZES``, or no map has the side ``attention``.
    """
    if image_size not in SIZES:
        sizes = ", ".join(map(str, SIZES))
        raise UserError(
            f"residual networks are for images of {sizes} pixels; data.image_size is {image_size}"
        )
    maps = [2 * COARSEST]
    while maps[-1] < image_size // 2:
        maps.append(2 * maps[-1])
    if attention not in (0, *maps):
        raise UserError(
            f"attention: {attention} is not the side of a map; images of {image_size} pixels have "
            f"maps of {', '.join(map(str, maps))} pixels, and 0 is for no self-attention"
        )
    return [min(2**i, MAX_FACTOR) * width for i in range(len(maps) + 2)]


def convolution(
    before: int, after: int, size: int, *, bias: bool = True, scale: float = 1.0
) -> nn.Conv2d:
    """A convolution that keeps the size of maps.

    Its initial weights multiply the variance of maps by ``scale`` squared (He et al.,
    arXiv:1502.01852): of the output of a ReLU, or of any maps if it is 1 x 1.
    """
    layer = nn.Conv2d(before, after, size, padding=size // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if size == 1 else "relu")
    layer.weight.data.mul_(scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def shortcut(before: int, after: int, *, bias: bool = True) -> nn.Module:
    """The shortcut of a block: the identity, or a 1 x 1 convolution if the channels change."""
    return nn.Identity() if before == after else convolution(before, after, 1, bias=bias)


class SelfAttention(nn.Module):
    """Self-attention between the positions of a map: x + gamma W softmax(Q K^T / sqrt(d)) V

    Q (d = C / 8), K (d) and V (C / 2 channels) are 1 x 1 convolutions: Q of x, K and V of x at half
    its size. gamma starts at 0, so that a network first learns from local neighbourhoods.

    Source: Zhang et al., arXiv:1805.08318; K and V at half the size as in Brock et al.,
    arXiv:1809.11096.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        short, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = convolution(channels, short, 1, bias=False)
        self.key = convolution(channels, short, 1, bias=False)
        self.value = convolution(channels, half, 1, bias=False)
        self.out = convolution(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        coarse = F.avg_pool2d(x, 2)
        sources = ((self.query, x), (self.key, coarse), (self.value, coarse))
        rows = [layer(maps).flatten(2).mT for layer, maps in sources]
        # Gradient penalties differentiate twice, which only this implementation supports.
        with sdpa_kernel(SDPBackend.MATH):
            attended = F.scaled_dot_product_attention(*rows)
        return x + self.gamma * self.out(attended.mT.unflatten(2, x.shape[2:]))


class Up(nn.Module):
    """A block that doubles the size: [norm, ReLU, upsampling, 3 x 3 convolution, norm, ReLU, 3 x 3
    convolution] plus a shortcut. Without biases, which the norms would remove.

    Args:
        conditions: see :class:`xraygan.plugin_api.ConditionalNorm`.
        attends: end with self-attention.
    """

    def __init__(self, before: int, after: int, conditions: int, *, attends: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ConditionalNorm(n, conditions) for n in (before, after))
        self.first = convolution(before, after, 3, bias=False)
        self.second = convolution(after, after, 3, bias=False)
        self.shortcut = shortcut(before, after, bias=False)
        self.attention = SelfAttention(after) if attends else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        first, second = self.norms
        y = self.first(doubled(F.relu(first(x, condition))))
        y = self.second(F.relu(second(y, condition)))
        return self.attention(doubled(self.shortcut(x)) + y)


class Down(nn.Module):
    """A block that halves the size: [ReLU, 3 x 3 convolution, ReLU, 3 x 3 convolution] plus a
    shortcut, then the means of 2 x 2.

    Args:
        halves: halve the size; otherwise keep it.
        attends: end with self-attention.
    """

    def __init__(
        self, before: int, after: int, *, halves: bool = True, attends: bool = False
    ) -> None:
        super().__init__()
        self.first = convolution(before, after, 3)
        # Without norms the variance would double in every block.
        self.second = convolution(after, after, 3, scale=0.25)
        self.shortcut = shortcut(before, after)
        self.attention = SelfAttention(after) if attends else nn.Identity()
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(F.relu(x))))
        y = self.shortcut(x) + y
        return self.attention(F.avg_pool2d(y, 2) if self.halves else y)
