"""Adversarial losses, each with optional zero-centred gradient penalties."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xraygan import Objective, Step
from xraygan.plugin_api import image_gradients, zero_centred_penalty

Gamma = Annotated[float, Field(ge=0)]


class _Penalized(Objective):
    """The base of objectives whose discriminator loss includes R1 and R2."""

    def __init__(self, *, r1: Gamma = 0.0, r2: Gamma = 0.0) -> None:
        self.r1 = r1
        self.r2 = r2

    @abstractmethod
    def adversarial_loss(self, step: Step) -> Tensor:
        """Scalar loss of the discriminator without R1 and R2."""

    def discriminator_loss(self, step: Step) -> Tensor:
        return self.adversarial_loss(step) + zero_centred_penalty(step, self.r1, self.r2)


class Hinge(_Penalized):
    """Hinge loss: no loss for real logits above 1 and generated logits below -1

    L_D = E_x[max(0, 1 - D(x))] + E_z[max(0, 1 + D(G(z)))], L_G = -E_z[D(G(z))], with D the
    discriminator's logits.

    Source: Lim and Ye, arXiv:1705.02894; Miyato et al., arXiv:1802.05957. Penalties: Mescheder et
    al., arXiv:1801.04406.

    Args:
        r1: adds r1/2 E_x[|grad D(x)|^2] to the discriminator's loss.
        r2: adds r2/2 E_z[|grad D(G(z))|^2] to the discriminator's loss.
    """

    def generator_loss(self, step: Step) -> Tensor:
        return -step.fake_scores.mean()

    def adversarial_loss(self, step: Step) -> Tensor:
        return F.relu(1 - step.real_scores).mean() + F.relu(1 + step.fake_scores).mean()


class LeastSquares(_Penalized):
    """Least squares GAN: the discriminator's targets are 1 (real) and -1 (generated)

    L_D = 1/2 E_x[(D(x) - 1)^2] + 1/2 E_z[(D(G(z)) + 1)^2], L_G = 1/2 E_z[(D(G(z)) - 1)^2], with D
    the discriminator's logits. In the paper's notation a = -1 and b = c = 1, so that a positive
    logit means real, as in the other objectives. The paper's 0-1 code is the same game for
    (D + 1) / 2.

    Source: Mao et al., arXiv:1611.04076, Eq. 2. Penalties: Mescheder et al., arXiv:1801.04406.

    Args:
        r1: adds r1/2 E_x[|grad D(x)|^2] to the discriminator's loss.
        r2: adds r2/2 E_z[|grad D(G(z))|^2] to the discriminator's loss.
    """

    def generator_loss(self, step: Step) -> Tensor:
        return (step.fake_scores - 1).square().mean() / 2

    def adversarial_loss(self, step: Step) -> Tensor:
        real, fake = step.real_scores, step.fake_scores
        return ((real - 1).square().mean() + (fake + 1).square().mean()) / 2


class WGANGP(_Penalized):
    """Wasserstein GAN with gradient penalty (WGAN-GP)

    L_D = E_z[D(G(z))] - E_x[D(x)] + penalty E[(|grad D(y)| - 1)^2], L_G = -E_z[D(G(z))], with
    y = e x + (1 - e) G(z) and e uniform in [0, 1] for each pair; a conditional discriminator gets
    label vectors that are interpolated with the same e. The penalty needs one more pass of the
    discriminator. Its mean square is recorded as `gradient_penalty`. The sign of the critic's
    output has no meaning, and so `discriminator_accuracy` has none either.

    Source: Gulrajani et al., arXiv:1704.00028, who update the discriminator five times as often as
    the generator ([schedule] ratio = "1:5") and use no batch norm in it. R1 and R2: Mescheder et
    al., arXiv:1801.04406.

    Args:
        penalty: weight of the gradient penalty.
        r1: adds r1/2 E_x[|grad D(x)|^2] to the discriminator's loss.
        r2: adds r2/2 E_z[|grad D(G(z))|^2] to the discriminator's loss.
    """

    def __init__(self, *, penalty: Gamma = 10.0, r1: Gamma = 0.0, r2: Gamma = 0.0) -> None:
        super().__init__(r1=r1, r2=r2)
        self.penalty = penalty

    def generator_loss(self, step: Step) -> Tensor:
        return -step.fake_scores.mean()

    def adversarial_loss(self, step: Step) -> Tensor:
        loss = step.fake_scores.mean() - step.real_scores.mean()
        if not self.penalty:
            return loss
        (real, _), (fake, _) = step.discriminator_pass("real"), step.discriminator_pass("fake")
        share = step.draw(
            lambda n: torch.rand(n, 1, 1, 1, generator=step.rng, device=step.real.device)
        )
        between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
        labels = None
        if step.networks["discriminator"].conditional:
            x, y = step.condition_vectors("real"), step.condition_vectors("fake")
            labels = y + share[:, :, 0, 0] * (x - y)
        gradients = image_gradients(between, step.discriminate(between, labels))
        penalty = (torch.linalg.vector_norm(gradients, dim=1) - 1).square().mean()
        step.record("gradient_penalty", penalty)
        return loss + self.penalty * penalty


class Relativistic(_Penalized):
    """Relativistic pairing loss with R1 and R2 (RpGAN, R3GAN)

    L_D = E[f(D(G(z)) - D(x))], L_G = E[f(D(x) - D(G(z)))], f(t) = log(1 + e^t), over pairs of the
    i-th real and the i-th generated image, with D the discriminator's logits: a real image should
    look more real than a generated one. The generator's loss also depends on the real images of the
    pairs, which counters a loss of variety. The sign of a logit has no meaning, and so
    `discriminator_accuracy` has none either.

    Source: Jolicoeur-Martineau, arXiv:1807.00734; Huang et al. (R3GAN), arXiv:2501.05441, who use
    no normalization in the discriminator, and R1 and R2 of the same weight, which grows with the
    image size from below 1 for the smallest images. The default suits 64 to 128 pixels.

    Args:
        r1: adds r1/2 E_x[|grad D(x)|^2] to the discriminator's loss.
        r2: adds r2/2 E_z[|grad D(G(z))|^2] to the discriminator's loss.
    """

    def __init__(self, *, r1: Gamma = 1.0, r2: Gamma = 1.0) -> None:
        super().__init__(r1=r1, r2=r2)

    def generator_loss(self, step: Step) -> Tensor:
        return F.softplus(step.real_scores - step.fake_scores).mean()

    def adversarial_loss(self, step: Step) -> Tensor:
        return F.softplus(step.fake_scores - step.real_scores).mean()
