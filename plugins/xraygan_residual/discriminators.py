"""The residual discriminator, without a condition and with the projection of one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xraygan import Discriminator, Task

from .blocks import COARSEST, Down, convolution, widths_for, with_deviation


class _Residual(Discriminator):
    """Blocks that halve the size down to 4 x 4, the sum over places, the logit."""

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
        for layer in readers:  # of sums over 16 places and all channels
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
    """Residual discriminator with self-attention: halving blocks, ReLU, no batch norm

    From 32, 64, 128, 256 or 512 pixels by blocks of two 3 x 3 convolutions beside a shortcut, each
    of which halves the size (means), to 4 x 4; features phi(x) are the sums over places behind one
    more block, and the logit is linear in them. Nothing normalizes over the batch, so the gradient
    at an image is its own.

    Source: Zhang et al., arXiv:1805.08318 (SAGAN); Miyato et al., arXiv:1802.05957 (spectral
    normalization); Karras et al., arXiv:1710.10196 (minibatch standard deviation).

    Args:
        width: channels of the finest feature map; each coarser one has twice as many, up to eight
            times.
        attention: side of the map with self-attention, in pixels: 8, 16, ... up to half of the
            image's; 0 for none.
        spectral_norm: divide every layer's weights by their largest singular value, which one power
            iteration a pass in training follows.
        minibatch_std: give the last block one map more, the batch's mean standard deviation, by
            which a generator without variety is known. An image's logit then depends on the others
            of its batch; with several ranks or `run.accumulate` those are its own rank's or part's.
    """


class ProjectionDiscriminator(_Residual):
    """Residual discriminator that compares features with an embedding of the labels

    The network of `residual`. The logit is w phi(x) + b + <E y, phi(x)>, with E linear in the label
    vector y, so that an image with several findings has the sum of their embeddings; y goes on with
    the metadata that [data] metadata names.

    Source: Miyato and Koyama, arXiv:1802.05637; Zhang et al., arXiv:1805.08318 (SAGAN); Miyato et
    al., arXiv:1802.05957 (spectral normalization); Karras et al., arXiv:1710.10196 (minibatch
    standard deviation).

    Args:
        width: channels of the finest feature map; each coarser one has twice as many, up to eight
            times.
        attention: side of the map with self-attention, in pixels: 8, 16, ... up to half of the
            image's; 0 for none.
        spectral_norm: divide every layer's weights by their largest singular value, which one power
            iteration a pass in training follows.
        minibatch_std: give the last block one map more, the batch's mean standard deviation, by
            which a generator without variety is known. An image's logit then depends on the others
            of its batch; with several ranks or `run.accumulate` those are its own rank's or part's.
    """

    conditional = True


def _constrain(network: nn.Module) -> None:
    """Divide the weights of every layer by their largest singular value."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            spectral_norm(module)
