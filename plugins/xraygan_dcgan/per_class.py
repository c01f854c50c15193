"""One DCGAN for each class, as in Salehinejad et al."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from xraygan import Discriminator, Generator, Task, UserError

from .networks import DCGANDiscriminator, DCGANGenerator


def require_exclusive_on_one_rank(task: Task) -> None:
    """Check that classes are exclusive and that the run has one rank.

    Raises:
        UserError: the classes do not exclude each other, or the run has several ranks, of which one
            could have no image of a class.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(
            "dcgan_per_class runs on one device: one of several devices could have no image of a "
            "class while the others wait for it; remove --devices"
        )
    if not task.exclusive:
        raise UserError(
            "dcgan_per_class has a network for each class and needs exclusive classes, but [data] "
            'label_policy is "multi"'
        )


def count(classes: Tensor, number: int) -> list[int]:
    """How many of the class indices ``(N,)`` are 0, 1, ..., number - 1.

    A GPU is waited for once: the sizes of the networks' batches must be known. ``torch.bincount``
    would wait for the largest index too.
    """
    each = torch.arange(number, device=classes.device)
    return (classes[:, None] == each).sum(dim=0).tolist()


def by_class(networks: nn.ModuleList, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Apply the network of its class to each row of the inputs; keep the order of the inputs.

    A network runs once on all rows of its class, and not at all if there are none, so its batch
    norms see only its class and its weights get gradients only from it.

    Args:
        networks: K networks.
        inputs: ``(N, ...)``, N > 0.
        labels: ``(N, K + ...)``, one-hot in the first K columns; the others are ignored.
    """
    if labels is None:
        raise ValueError("a network for each class needs labels")
    classes = labels[:, : len(networks)].argmax(dim=1)
    order = classes.argsort(stable=True)
    parts = zip(networks, inputs[order].split(count(classes, len(networks))), strict=True)
    outputs = [network(part) for network, part in parts if len(part)]
    return torch.cat(outputs)[order.argsort()]


class PerClassGenerator(Generator):
    """One DCGAN generator for each class, trained only on that class

    K independent networks of `dcgan`; an image of class k is G_k(z). Batch norms use only the
    images of one class in a step. A single image is normalized over its pixels.

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
        require_exclusive_on_one_rank(task)
        self.latent_size = latent_size
        self.networks = nn.ModuleList(
            DCGANGenerator(task, latent_size=latent_size, width=width) for _ in task.classes
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return by_class(self.networks, z, labels)


class PerClassDiscriminator(Discriminator):
    """One DCGAN discriminator for each class, trained only on that class

    K independent networks of `dcgan`; D_k gives the logit of an image of class k, real or
    generated. Batch norms use only the real or the generated images of one class in a step.

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
        require_exclusive_on_one_rank(task)
        self.networks = nn.ModuleList(DCGANDiscriminator(task, width=width) for _ in task.classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return by_class(self.networks, images, labels)
