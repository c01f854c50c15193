"""Adaptive discriminator augmentation of Karras et al., for grey images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Augmenter, Step

from .geometry import chained, resampled, scaled, shifted, turned

Group = Literal["blit", "geometry", "color"]

CHANGES: dict[Group, tuple[str, ...]] = {
    "blit": ("mirror", "quarter", "step"),
    "geometry": ("scale", "turn", "stretch", "turn again", "shift"),
    "color": ("brightness", "contrast", "invert"),
}
#: spread of the logarithms (base 2) of scales and contrast, of shifts (of the side), of brightness
SCALE, CONTRAST, SHIFT, BRIGHTNESS = 0.2, 0.5, 1 / 8, 0.2


class ADA(Augmenter):
    """ADA: changes with a probability that follows how sure the discriminator is of real images

    Each change is applied to an image with probability p, all in one resampling (bilinear, edges
    reflected). "blit": mirrored or not; turned by a multiple of 90 degrees; moved by whole pixels,
    up to an eighth of the side. "geometry": scaled by 2^N(0, 0.2^2); turned by any angle; scaled by
    2^N(0, 0.2^2) along one axis and its inverse along the other; turned again (either turn, or
    both, with p); moved by N(0, 1/8^2) of the side. "color", of grey images: brightness +
    N(0, 0.2^2); contrast times 2^N(0, 0.5^2); inverted or not.

    After a step in which the discriminator learned from N real images, p moves by N / images:
    upwards if E[sign(D(x))] > target, with D its logits for these images, else downwards, within
    [0, 1]. The paper does so every four steps. p is recorded as `ada_p`.

    It needs an objective that takes an image for real where its logit is positive: `minmax`,
    `hinge` or `least_squares`. With `wgan_gp` and `relativistic` p follows nothing.

    Source: Karras et al., Training Generative Adversarial Networks with Limited Data,
    arXiv:2006.06676, with its set of changes that is best for few images, without its filter
    against aliasing.

    Args:
        target: of E[sign(D(x))], above which the discriminator knows the real images by heart.
        images: real images in which p can rise from 0 to 1, repetitions counted.
        start: p of the first step.
        policy: which of the three groups.
    """

    p: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        target: Annotated[float, Field(gt=-1, lt=1)] = 0.6,
        images: Annotated[int, Field(gt=0, le=1_000_000_000_000)] = 500_000,
        start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        policy: tuple[Group, ...] = ("blit", "geometry", "color"),
    ) -> None:
        super().__init__()
        self.target = target
        self.images = images
        self.policy = policy
        self.register_buffer("p", torch.tensor(float(start)))
        # The sum of signs since the last step, and of how many: zeros whenever a run is saved.
        self.register_buffer("seen", torch.zeros(2), persistent=False)

    def forward(self, images: Tensor, step: Step) -> Tensor:
        step.record("ada_p", self.p.clone())

        def draw(make: Callable[..., Tensor], count: int) -> tuple[Tensor, ...]:
            how = {"generator": step.rng, "device": images.device}
            return step.draw(lambda n: make(n, count, **how)).unbind(dim=1)

        on = self._applied(draw(torch.rand, 11))
        uniform, normal = draw(torch.rand, 7), draw(torch.randn, 6)
        images = resampled(images, places(on, uniform, normal, images.shape[-1]))
        brightness = BRIGHTNESS * normal[4] * on["brightness"]
        contrast = torch.exp2(CONTRAST * normal[5] * on["contrast"])
        contrast = torch.where(on["invert"] & (uniform[6] < 0.5), -contrast, contrast)
        return (images + brightness[:, None, None, None]) * contrast[:, None, None, None]

    def _applied(self, chance: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Which images each change is applied to, ``(n,)``."""
        one_of_two = 1 - (1 - self.p).sqrt()
        numbers = iter(chance)
        return {
            name: next(numbers)
            < (one_of_two if "turn" in name else self.p) * (group in self.policy)
            for group, names in CHANGES.items()
            for name in names
        }

    def watch(self, scores: Tensor) -> None:
        self.seen[0] += scores.sign().sum()
        self.seen[1] += len(scores)

    def adapt(self, held: Tensor | None) -> None:
        signs, count = self.seen
        change = (signs - self.target * count).sign() * count / self.images
        if held is not None:  # perhaps because the logits were not finite
            change = torch.where(held > 0, 0.0, change)
        self.p.add_(change).clamp_(0, 1)
        self.seen.zero_()


def places(
    on: dict[str, Tensor], uniform: tuple[Tensor, ...], normal: tuple[Tensor, ...], size: int
) -> Tensor:
    """Where the changed images' pixels come from: ``(n, 3, 3)``, see :func:`resampled`.

    Args:
        on: which images each change is applied to.
        uniform: numbers in [0, 1): of the mirror, the quarters, both steps and both turns.
        normal: numbers of the scale, the stretch and both shifts.
        size: S.
    """

    def if_on(name: str, value: Tensor, otherwise: float = 0.0) -> Tensor:
        return torch.where(on[name], value, otherwise)

    mirror = if_on("mirror", 1 - 2 * (uniform[0] < 0.5).to(uniform[0].dtype), 1.0)
    quarter = if_on("quarter", (4 * uniform[1]).floor() * (math.pi / 2))
    step = [if_on("step", ((2 * u - 1) * SHIFT * size).round()) for u in uniform[2:4]]
    scale = torch.exp2(SCALE * if_on("scale", normal[0]))
    stretch = torch.exp2(SCALE * if_on("stretch", normal[1]))
    turn = if_on("turn", (2 * uniform[4] - 1) * math.pi)
    again = if_on("turn again", (2 * uniform[5] - 1) * math.pi)
    shift = [if_on("shift", SHIFT * size * x) for x in normal[2:4]]
    return chained(
        scaled(mirror, torch.ones_like(mirror)),
        turned(quarter),
        shifted(*step),
        scaled(scale, scale),
        turned(turn),
        scaled(stretch, 1 / stretch),
        turned(again),
        shifted(*shift),
    )
