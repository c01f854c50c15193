"""The min-max objective, Eqs. 1 and 6 of XRAY-GAN."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xraygan import Objective, Step
from xraygan.plugin_api import zero_centred_penalty

Gamma = Annotated[float, Field(ge=0)]


class MinMax(Objective):
    """The min-max game of the original GAN (Eq. 1), or of a conditional GAN (Eq. 6)

    min_G max_D V = E_x[log D(x)] + E_z[log(1 - D(G(z)))], with D the sigmoid of the
    discriminator's logits. The discriminator minimizes -V. The generator minimizes
    -E_z[log D(G(z))] (non-saturating), or V itself.

    Source: Goodfellow et al. (2014); Eqs. 1 and 6 of XRAY-GAN. Penalties: Mescheder et al.,
    arXiv:1801.04406.

    Args:
        saturating: the generator minimizes E_z[log(1 - D(G(z)))] as in Eq. 1, whose gradient
            vanishes if the discriminator rejects all generated images.
        r1: adds r1/2 E_x[|grad D(x)|^2] to the discriminator's loss, D being the logits.
        r2: adds r2/2 E_z[|grad D(G(z))|^2] to the discriminator's loss.
    """

    def __init__(self, *, saturating: bool = False, r1: Gamma = 0.0, r2: Gamma = 0.0) -> None:
        self.saturating = saturating
        self.r1 = r1
        self.r2 = r2

    def generator_loss(self, step: Step) -> Tensor:
        if self.saturating:
            return F.logsigmoid(-step.fake_scores).mean()  # log(1 - sigmoid(s))
        return -F.logsigmoid(step.fake_scores).mean()

    def discriminator_loss(self, step: Step) -> Tensor:
        real, fake = step.real_scores, step.fake_scores
        loss = -(F.logsigmoid(real).mean() + F.logsigmoid(-fake).mean())
        return loss + zero_centred_penalty(step, self.r1, self.r2)
