"""The residual generator, unconditional or conditional."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from xraygan import Generator, Task
from xraygan.plugin_api import ConditionalNorm

from .blocks import COARSEST, Up, convolution, widths_for


class _Residual(Generator):
    """A dense layer to 4 x 4, blocks that double the size, the image."""

    def __init__(
        self,
        task: Task,
        *,
        latent_size: Annotated[int, Field(gt=0, le=65_536)] = 128,
        width: Annotated[int, Field(gt=0, le=4096)] = 32,
        attention: Annotated[int, Field(ge=0, le=1024)] = 16,
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        conditions = task.condition_size if self.conditional else 0
        widths = widths_for(task.image_size, width, attention)
        self.dense = nn.Linear(latent_size, widths[-1] * COARSEST**2)
        self.blocks = nn.ModuleList()
        side = COARSEST
        for before, after in pairwise(reversed(widths)):
            side *= 2
            self.blocks.append(Up(before, after, conditions, attends=side == attention))
        self.norm = ConditionalNorm(width, conditions)
        self.last = convolution(
            width, 1, 3, scale=0.25
        )  # starts near grey, where tanh has a gradient

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = None
        if self.conditional:
            if labels is None:
                raise ValueError("a conditional generator needs labels")
            condition = labels.to(z.dtype)
        x = self.dense(z).unflatten(1, (-1, COARSEST, COARSEST))
        for block in self.blocks:
            x = block(x, condition)
        return self.last(F.relu(self.norm(x, condition))).tanh()


class ResidualGenerator(_Residual):
    """Residual generator with self-attention: upsampling blocks, batch norm, ReLU, tanh

    A dense layer maps the latent vector to 4 x 4, and blocks of two 3 x 3 convolutions and a
    shortcut double the size (nearest) to 32, 64, 128, 256 or 512 pixels. At 128 pixels it has 3.6
    million parameters; `dcgan` has 12.8 million.

    Source: Zhang et al., arXiv:1805.08318 (SAGAN); Brock, Donahue and Simonyan, arXiv:1809.11096
    (BigGAN); Gulrajani et al., arXiv:1704.00028.

    Args:
        latent_size: length of the latent vector.
        width: channels of the finest feature map; each coarser map has twice as many, up to eight
            times this number.
        attention: side of the map with self-attention, in pixels: 8, 16, ... up to half of the
            image size; 0 for none.
    """


class ConditionalResidualGenerator(_Residual):
    """Conditional residual generator: the labels set the gains and biases of its batch norms

    The network of `residual`. The gains and biases of each batch norm are g + G y and b + B y,
    linear in the label vector y, so that each class has its own, and an image with several findings
    has their sums. The metadata of [data] metadata is appended to y.

    Source: Miyato and Koyama, arXiv:1802.05637; Zhang et al., arXiv:1805.08318 (SAGAN); Brock,
    Donahue and Simonyan, arXiv:1809.11096 (BigGAN).

    Args:
        latent_size: length of the latent vector.
        width: channels of the finest feature map; each coarser map has twice as many, up to eight
            times this number.
        attention: side of the map with self-attention, in pixels: 8, 16, ... up to half of the
            image size; 0 for none.
    """

    conditional = True
