"""The conditional networks of XRAY-GAN's Sec. 4.1."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from xraygan import Discriminator, Generator, Task, UserError

SHRINK = 8  # three doublings in the generator, three halvings in the discriminator
BATCH_NORM_MOMENTUM = 0.2  # 0.8 in Keras, which defines it as 1 - momentum


def coarse_size(task: Task) -> int:
    """Side of the coarsest feature map.

    Raises:
        UserError: the image size cannot be halved three times.
    """
    if task.image_size % SHRINK:
        raise UserError(
            f"cgan needs an image size that {SHRINK} divides; data.image_size is {task.image_size}"
        )
    return task.image_size // SHRINK


class CGANGenerator(Generator):
    """Conditional generator: noise times a label embedding, three upsampling convolutions

    z * E(y) -> dense (S/8 x S/8 x 128) -> three times [nearest upsampling by 2, 3 x 3 convolution,
    batch norm, ReLU] with 128, 64 and 32 filters -> 3 x 3 convolution -> tanh. E is linear in the
    label vector, so that images with several findings have the sum of their embeddings. The
    metadata of [data] metadata is appended to the label vector.

    Source: Mirza and Osindero, arXiv:1411.1784; the layers of Gupta and Lynch (2019), which
    XRAY-GAN's Sec. 5.4 builds on.

    Args:
        latent_size: length of the latent vector and of the label embedding.
    """

    conditional = True

    def __init__(
        self, task: Task, *, latent_size: Annotated[int, Field(gt=0, le=65_536)] = 128
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.side = coarse_size(task)
        self.embedding = nn.Linear(task.condition_size, latent_size, bias=False)
        nn.init.normal_(self.embedding.weight)  # initialized like an embedding, not a dense layer
        self.dense = nn.Sequential(
            nn.Linear(latent_size, 128 * self.side**2), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        for before, after in ((128, 128), (128, 64), (64, 32)):
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after, momentum=BATCH_NORM_MOMENTUM),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(32, 1, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("a conditional generator needs labels")
        coarse = self.dense(z * self.embedding(labels.to(z.dtype)))
        return self.layers(coarse.view(-1, 128, self.side, self.side))


class CGANDiscriminator(Discriminator):
    """Conditional discriminator: four convolutions, with the label appended to the last features

    3 x 3 convolutions with 32, 64, 128 (stride 2) and 256 (stride 1) filters, each with LeakyReLU
    0.2, dropout and, after the first, batch norm; flattened, concatenated with the label vector,
    one logit (the sigmoid is in the loss).

    Source: Mirza and Osindero, arXiv:1411.1784; the layers of Gupta and Lynch (2019).

    Args:
        dropout: share of the entries of feature maps that is dropped in training.
    """

    conditional = True

    def __init__(self, task: Task, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25) -> None:
        super().__init__()
        side = coarse_size(task)
        layers: list[nn.Module] = []
        for before, after, stride in ((1, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 1)):
            layers.append(nn.Conv2d(before, after, 3, stride, padding=1))
            if before > 1:
                layers.append(nn.BatchNorm2d(after, momentum=BATCH_NORM_MOMENTUM))
            layers += [nn.LeakyReLU(0.2, inplace=True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(256 * side**2 + task.condition_size, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("a conditional discriminator needs labels")
        features = self.layers(images)
        return self.head(torch.cat([features, labels.to(features.dtype)], dim=1)).flatten()
