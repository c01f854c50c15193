"""The projected discriminator, unconditional or with a projection of the condition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xraygan import Discriminator, Task, UserError
from xraygan.plugin_api import with_deviation

from .backbones import FeatureNetwork
from .mixing import Mixing

STRIDES = (4, 8, 16, 32)  # of the maps of the feature network, in pixels
COARSEST = 4  # side of the map that becomes a logit, in pixels
MAX_CHANNELS = 512
PROJECTED = 64  # length of a scale's features on which the label is projected

Norm = Literal["none", "batch"]


class ScaleDiscriminator(nn.Module):
    """One scale's discriminator: 4 x 4 convolutions of stride 2 down to 4 x 4, then the logit

    Spectral normalization, and LeakyReLU 0.2 after each convolution but the last, behind a batch
    norm where ``norm`` asks for it, as in Sauer et al., arXiv:2111.01007.

    Args:
        channels: those of its maps.
        side: height and width of its maps.
        conditions: length of the condition, projected on 64 features; 0 for a logit without one.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        width: int,
        conditions: int,
        *,
        norm: Norm,
        minibatch_std: bool,
    ) -> None:
        super().__init__()
        self.minibatch_std = minibatch_std
        self.blocks = nn.Sequential()
        after = width
        while side > COARSEST:
            layer = nn.Conv2d(channels, after, 4, stride=2, padding=1, bias=False)
            self.blocks.append(spectral_norm(layer))
            if norm == "batch":
                self.blocks.append(nn.BatchNorm2d(after))
            self.blocks.append(nn.LeakyReLU(0.2, inplace=True))
            channels, after, side = after, min(2 * after, MAX_CHANNELS), side // 2
        outputs = PROJECTED if conditions else 1
        last = nn.Conv2d(channels + minibatch_std, outputs, min(side, COARSEST), bias=False)
        self.last = spectral_norm(last)
        self.embedding = nn.Linear(conditions, PROJECTED) if conditions else None

    def forward(self, maps: Tensor, condition: Tensor | None) -> Tensor:
        """The logits ``(N,)`` of maps ``(N, C, S, S)``."""
        x = self.blocks(maps)
        if self.minibatch_std:
            x = with_deviation(x)
        features = self.last(x).flatten(1)
        if self.embedding is None:
            return features.flatten()
        return (self.embedding(condition) * features).sum(dim=1) / math.sqrt(PROJECTED)


class _Projected(Discriminator):
    """A frozen feature network, its mixing, and a discriminator of each scale."""

    def __init__(
        self,
        task: Task,
        *,
        model: str = "tf_efficientnet_lite0",
        weights: Literal["imagenet", "random"] | Path = "imagenet",
        size: Annotated[int, Field(ge=0, le=1024)] = 0,
        width: Annotated[int, Field(gt=0, le=1024)] = 64,
        norm: Norm = "none",
        minibatch_std: bool = False,
    ) -> None:
        super().__init__()
        side = size or task.image_size
        coarsest = STRIDES[-1]
        if side % coarsest:
            raise UserError(
                f"size: {side} pixels are not a multiple of {coarsest}, the stride of the coarsest "
                f"map; set size, for example to {-(-side // coarsest) * coarsest}"
            )
        self.features = FeatureNetwork(
            model, weights, task.image_size, reductions=STRIDES, size=size
        )
        self.mixing = Mixing(self.features.channels, width)
        conditions = task.condition_size if self.conditional else 0
        maps = zip(self.mixing.channels, STRIDES, strict=True)
        self.scales = nn.ModuleList(
            ScaleDiscriminator(
                channels,
                side // stride,
                width,
                conditions,
                norm=norm,
                minibatch_std=minibatch_std,
            )
            for channels, stride in maps
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = None
        if self.conditional:
            if labels is None:
                raise ValueError("a conditional discriminator needs labels")
            condition = labels.to(images.dtype)
        maps = self.mixing(self.features(images))
        logits = [scale(x, condition) for scale, x in zip(self.scales, maps, strict=True)]
        return torch.stack(logits).mean(dim=0)


class ProjectedDiscriminator(_Projected):
    """Projected discriminator: small discriminators on the features of a frozen pretrained network

    A network of timm gives maps at strides 4, 8, 16 and 32. Fixed random convolutions mix them
    across channels and scales, and a small discriminator of each scale gives a logit; the logit of
    an image is their mean. Only the small discriminators learn; gradients flow through the frozen
    network to the images. It converges in a fraction of the images that other discriminators need,
    and its generated images agree with real ones in the features of that network: measure them in
    those of another.

    The published discriminators have batch norms. As real and generated images pass one after the
    other, a batch norm scales each kind to the same variance and so hides from the discriminator
    that the generated images vary less; docs/stability.md has what was measured. Without it the
    gradient penalties r1 and r2 can be used as well.

    Source: Sauer et al., arXiv:2111.01007 (Projected GAN); there the loss is of each scale's logit,
    and here of their mean. Minibatch standard deviation: Karras et al., arXiv:1710.10196.

    Args:
        model: name of the network in timm, with maps of these strides.
        weights: of the network: "imagenet" (of tf_efficientnet_lite0 from an installed package,
            of others downloaded by timm), "random", or the path of a local file (.safetensors, or
            .pth with tensors alone).
        size: side in pixels to which images are resized for the network, a multiple of 32; 0 for
            their own size. A larger side costs its square, and the features are those of more
            detail.
        width: channels of the mixed features of the finest scale; coarser ones have 2, 4 and 8
            times as many.
        norm: of the small discriminators: "none", or "batch" for the published batch norms.
        minibatch_std: append the mean standard deviation of the batch as a map to the input of each
            logit, so that the discriminator detects a generator without variety. With several ranks
            or `run.accumulate` it is that of each rank or part.
    """


class ConditionalProjectedDiscriminator(_Projected):
    """Conditional projected discriminator: each scale's logit is a projection of the label

    The network of `projected`. The logit of a scale is <E y + b, phi(x)> / 8, with 64 features
    phi(x) and E linear in the label vector y, so that an image with several findings has the sum of
    their embeddings. The metadata of [data] metadata is appended to y.

    Source: Sauer et al., arXiv:2111.01007 (Projected GAN); Miyato and Koyama, arXiv:1802.05637
    (projection). Minibatch standard deviation: Karras et al., arXiv:1710.10196.

    Args:
        model: name of the network in timm, with maps of strides 4, 8, 16 and 32.
        weights: of the network: "imagenet" (of tf_efficientnet_lite0 from an installed package,
            of others downloaded by timm), "random", or the path of a local file (.safetensors, or
            .pth with tensors alone).
        size: side in pixels to which images are resized for the network, a multiple of 32; 0 for
            their own size. A larger side costs its square, and the features are those of more
            detail.
        width: channels of the mixed features of the finest scale; coarser ones have 2, 4 and 8
            times as many.
        norm: of the small discriminators: "none", or "batch" for the published batch norms.
        minibatch_std: append the mean standard deviation of the batch as a map to the input of each
            logit, so that the discriminator detects a generator without variety. With several ranks
            or `run.accumulate` it is that of each rank or part.
    """

    conditional = True
