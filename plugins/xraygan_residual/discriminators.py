"""The residual discriminator, unconditional or with a projection of the condition."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xraygan import Discriminator, Task
from xraygan.plugin_api import with_deviation

from .blocks import COARSEST, Down, convolution, widths_for


class _Residual(Discriminator):
    """Blocks that halve the size down to 4 x 4, the sum over positions, the logit."""

    def __init__(
        self,
        task: Task,
        *,
        width: Annotated[int, Field(gt=0, le=4096)] = 32,
        attention: Annotated[int, Field(ge=0, le=1024)] = 16,
        spectral_norm: bool = False,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__()
        self.minibatch_std = minibatch_std
        widths = widths_for(task.image_size, width, attention)
        self.stem = convolution(1, width, 3)
        self.blocks = nn.Sequential()
        side = task.image_size
        for before, after in pairwise(widths):
            side //= 2
            self.blocks.append(Down(before, after, attends=side == attention))
        channels = widths[-1]
        self.last = Down(channels + minibatch_std, channels, halves=False)
        self.head = nn.Linear(channels, 1)
        readers = [self.head]
        if self.conditional:
            self.embedding = nn.Linear(task.condition_size, channels, bias=False)
            readers.append(self.embedding)
        for layer in readers:  # their inputs are sums over 16 positions
            nn.init.normal_(layer.weight, 0.0, 1 / (COARSEST**2 * math.sqrt(channels)))
        if spectral_norm:
            _constrain(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.blocks(self.stem(images))
        if self.minibatch_std:
            x = with_deviation(x)
        features = F.relu(self.last(x)).sum(dim=(2, 3))
        logits = self.head(features).flatten()
        if self.conditional:
            if labels is None:
                raise ValueError("a conditional discriminator needs labels")
            embedded = self.embedding(labels.to(images.dtype))
            logits = logits + (embedded * features).sum(dim=1)
        return logits


class ResidualDiscriminator(_Residual):
    """Residual discriminator with self-attention: blocks that halve the size, ReLU, no batch norm

    Blocks of two 3 x 3 convolutions and a shortcut halve the size (by means) from 32, 64, 128, 256
    or 512 pixels to 4 x 4. After one more block, the features phi(x) are the sums over positions,
    and the logit is linear in them. No layer normalizes over the batch, so the gradient at an image
    does not depend on the other images.

    Source: Zhang et al., arXiv:1805.08318 (SAGAN); Miyato et al., arXiv:1802.05957 (spectral
    normalization); Karras et al., arXiv:1710.10196 (minibatch standard deviation).

    Args:
        width: channels of the finest feature map; each coarser map has twice as many, up to eight
            times this number.
        attention: side of the map with self-attention, in pixels: 8, 16, ... up to half of the
            image size; 0 for none.
        spectral_norm: divide every layer's weights by their largest singular value, which one power
            iteration in each training pass tracks.
        minibatch_std: append the mean standard deviation of the batch as a map to the input of the
            last block, so that the discriminator detects a generator without variety. The logit of
            an image then depends on the other images of its batch; with several ranks or
            `run.accumulate`, on those of its rank or part.
    """


class ProjectionDiscriminator(_Residual):
    """Conditional residual discriminator: projection of the features on a label embedding

    The network of `residual`. The logit is w phi(x) + b + <E y, phi(x)>, with E linear in the label
    vector y, so that an image with several findings has the sum of their embeddings. The metadata
    of [data] metadata is appended to y.

    Source: Miyato and Koyama, arXiv:1802.05637; Zhang et al., arXiv:1805.08318 (SAGAN); Miyato et
    al., arXiv:1802.05957 (spectral normalization); Karras et al., arXiv:1710.10196 (minibatch
    standard deviation).

    Args:
        width: channels of the finest feature map; each coarser map has twice as many, up to eight
            times this number.
        attention: side of the map with self-attention, in pixels: 8, 16, ... up to half of the
            image size; 0 for none.
        spectral_norm: divide every layer's weights by their largest singular value, which one power
            iteration in each training pass tracks.
        minibatch_std: append the mean standard deviation of the batch as a map to the input of the
            last block, so that the discriminator detects a generator without variety. The logit of
            an image then depends on the other images of its batch; with several ranks or
            `run.accumulate`, on those of its rank or part.
    """

    conditional = True


def _constrain(network: nn.Module) -> None:
    """Divide the weights of every layer by their largest singular value."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            spectral_norm(module)
