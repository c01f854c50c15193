"""One DCGAN for each class, as Salehinejad et al. train them."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from xraygan import Discriminator, Generator, Task, UserError

from .networks import DCGANDiscriminator, DCGANGenerator


def refuse(task: Task) -> None:
    """Stop where an image can be of several classes, or a rank have no image of one.

    Raises:
        UserError: the classes do not exclude each other, or the run is spread over several ranks.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(
            "dcgan_per_class runs on one device: of several, one could have no image of a class "
            "while the others wait for it; leave --devices out"
        )
    if not task.exclusive:
        raise UserError(
            "dcgan_per_class has one network a class and needs exclusive classes, but [data] "
            'label_policy is "multi"'
        )


def by_class(networks: nn.ModuleList, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Each row of the inputs through the network of its class, in the order of the inputs.

    A network runs once on all rows of its class, and not at all where there are none, so its batch
    norms never see another class and its weights get no gradient from one.

    Args:
        networks: K networks.
        inputs: ``(N, ...)``, N > 0.
        labels: ``(N, K)``, one-hot; what follows the labels is not looked at.
    """
    if labels is None:
        raise ValueError("a network for each class needs labels")
    classes = labels[:, : len(networks)].argmax(dim=1)
    order = classes.argsort(stable=True)
    counts = torch.bincount(classes, minlength=len(networks)).tolist()
    parts = zip(networks, inputs[order].split(counts), strict=True)
    outputs = [network(part) for network, part in parts if len(part)]
    return torch.cat(outputs)[order.argsort()]


class PerClassGenerator(Generator):
    """One DCGAN generator for each class, which learns from that class alone

    K independent networks of `dcgan`; an image of class k is G_k(z). A step's batch norms see the
    step's images of one class only, however few: from a single image on, which is then normalized
    over its pixels.

    Source: Salehinejad et al., "Synthesizing Chest X-Ray Pathology for Training Deep Convolutional
    Neural Networks", IEEE TMI (2018); Radford, Metz and Chintala, arXiv:1511.06434.

    Args:
        latent_size: length of the latent vector.
        width: channels of the finest feature map; each coarser one has twice as many, up to 1024.

    Raises:
        UserError: the classes do not exclude each other.
    """

    conditional = True

    def __init__(
        self,
        task: Task,
        *,
        latent_size: Annotated[int, Field(gt=0, le=65_536)] = 100,
        width: Annotated[int, Field(gt=0, le=4096)] = 64,
    ) -> None:
        super().__init__()
        refuse(task)
        self.latent_size = latent_size
        self.networks = nn.ModuleList(
            DCGANGenerator(task, latent_size=latent_size, width=width) for _ in task.classes
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return by_class(self.networks, z, labels)


class PerClassDiscriminator(Discriminator):
    """One DCGAN discriminator for each class, which learns from that class alone

    K independent networks of `dcgan`; an image of class k, real or generated, is judged by D_k. A
    step's batch norms see the step's real or generated images of one class only.

    Source: Salehinejad et al., "Synthesizing Chest X-Ray Pathology for Training Deep Convolutional
    Neural Networks", IEEE TMI (2018); Radford, Metz and Chintala, arXiv:1511.06434.

    Args:
        width: channels of the finest feature map; each coarser one has twice as many, up to 1024.

    Raises:
        UserError: the classes do not exclude each other.
    """

    conditional = True

    def __init__(self, task: Task, *, width: Annotated[int, Field(gt=0, le=4096)] = 64) -> None:
        super().__init__()
        refuse(task)
        self.networks = nn.ModuleList(DCGANDiscriminator(task, width=width) for _ in task.classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return by_class(self.networks, images, labels)
