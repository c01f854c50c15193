"""Penalties on the discriminator's gradient towards images, for objectives to add to its loss.

They are defined image by image. Behind a batch norm a logit depends on the other images too, and
its gradient is no longer that of one image: use a discriminator without one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xraygan.parts.step import Batch, Step
from xraygan.utils.tensors import as_float32


def image_gradients(images: Tensor, logits: Tensor) -> Tensor:
    """The gradient ``(n, C S S)`` of each image's logit, float32, to be differentiated again.

    Args:
        images: ``(n, C, S, S)``, of which the logits were computed.
        logits: ``(n,)``, not gathered from other ranks.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return as_float32(gradient).flatten(1)


def zero_centred_penalty(step: Step, r1: float = 0.0, r2: float = 0.0) -> Tensor | float:
    """r1/2 E_x[|grad D(x)|^2] + r2/2 E_z[|grad D(G(z))|^2], D being logits, the norm over pixels.

    Both expectations are recorded, as ``r1`` and ``r2``; one whose weight is 0 is not computed.

    Source: Mescheder, Geiger and Nowozin, arXiv:1801.04406.

    Args:
        r1: gamma of the real images.
        r2: gamma of the generated ones.
    """
    total: Tensor | float = 0.0
    batches: tuple[tuple[str, float, Batch], ...] = (("r1", r1, "real"), ("r2", r2, "fake"))
    for name, gamma, batch in batches:
        if gamma:
            squared = image_gradients(*step.discriminator_pass(batch)).square().sum(dim=1).mean()
            step.record(name, squared)
            total = total + gamma / 2 * squared
    return total
