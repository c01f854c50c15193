"""Eqs. 1 and 6 of XRAY-GAN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xraygan import Objective
from xraygan.step import Step


class MinMax(Objective):
    """The min-max game of Eq. 1, conditional (Eq. 6) where the networks are

    min_G max_D V = E_x[log D(x)] + E_z[log(1 - D(G(z)))], with D the sigmoid of the
    discriminator's logits. The discriminator minimizes -V. The generator minimizes
    -E_z[log D(G(z))] (non-saturating), or V itself.

    Source: Goodfellow et al. (2014); Eqs. 1 and 6 of XRAY-GAN.

    Args:
        saturating: let the generator minimize E_z[log(1 - D(G(z)))], the game as it is written,
            whose gradient vanishes where the discriminator wins.
    """

    def __init__(self, *, saturating: bool = False) -> None:
        self.saturating = saturating

    def generator_loss(self, step: Step) -> Tensor:
        if self.saturating:
            return F.logsigmoid(-step.fake_scores).mean()  # log(1 - sigmoid(s))
        return -F.logsigmoid(step.fake_scores).mean()

    def discriminator_loss(self, step: Step) -> Tensor:
        real, fake = step.real_scores, step.fake_scores
        return -(F.logsigmoid(real).mean() + F.logsigmoid(-fake).mean())
