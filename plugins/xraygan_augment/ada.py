"""Adaptive discriminator augmentation (ADA) of Karras et al., for grey images."""

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
#: standard deviations of log2 of scales, of log2 of contrast, of shifts (as a share of the side; of
#: shifts by whole pixels it is the largest), and of brightness
SCALE, CONTRAST, SHIFT, BRIGHTNESS = 0.2, 0.5, 1 / 8, 0.2


class ADA(Augmenter):
    """Adaptive discriminator augmentation (ADA): its probability follows the overfitting

    Each change is applied to an image with probability p, all in one resampling (bilinear, edges
    reflected). "blit": mirroring; rotation by a multiple of 90 degrees; a shift by whole pixels, up
    to an eighth of the side. "geometry": scaling by 2^N(0, 0.2^2); rotation by any angle; scaling
    by 2^N(0, 0.2^2) along one axis and the inverse along the other; another rotation (p is the
    probability of either rotation); a shift by N(0, 1/8^2) of the side. "color", for grey images:
    brightness + N(0, 0.2^2); contrast times 2^N(0, 0.5^2); inversion.

    After a step in which the discriminator learned from N real images, p changes by N / images: it
    rises if E[sign(D(x))] > target, with D the logits of these images, and falls otherwise, within
    [0, 1]. The paper changes p every four steps. p is recorded as `ada_p`.

    It needs an objective whose positive logits mean real: `minmax`, `hinge` or `least_squares`.
    With `wgan_gp` and `relativistic` the sign of a logit has no meaning, and neither has p.

    Source: Karras et al., Training Generative Adversarial Networks with Limited Data,
    arXiv:2006.06676, with its best set of changes for few images, without its antialiasing filter.

    Args:
        target: the value of E[sign(D(x))] above which the discriminator counts as overfitted.
        images: number of real images, with repetitions, in which p can rise from 0 to 1.
        start: p of the first step.
        policy: the groups of changes to apply.
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
        # The sum and the number of signs since the last step; both are 0 when a run is saved.
        self.register_buffer("seen", torch.zeros(2), persistent=False)

    def forward(self, images: Tensor, step: Step) -> Tensor:
        step.record("ada_p", self.p.clone())

        def draw(make: Callable[..., Tensor], count: int) -> tuple[Tensor, ...]:
            source = {"generator": step.rng, "device": images.device}
            return step.draw(lambda n: make(n, count, **source)).unbind(dim=1)

        on = self._applied(draw(torch.rand, 11))
        uniform, normal = draw(torch.rand, 7), draw(torch.randn, 6)
        images = resampled(images, places(on, uniform, normal, images.shape[-1]))
        brightness = BRIGHTNESS * normal[4] * on["brightness"]
        contrast = torch.exp2(CONTRAST * normal[5] * on["contrast"])
        contrast = torch.where(on["invert"] & (uniform[6] < 0.5), -contrast, contrast)
        return (images + brightness[:, None, None, None]) * contrast[:, None, None, None]

    def _applied(self, chance: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """For each change, the images to which it is applied: ``(n,)`` bool."""
        one_of_two = (
            1 - (1 - self.p).sqrt()
        )  # p is the probability of at least one of two rotations
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
        if held is not None:  # a skipped step, whose logits may not be finite
            change = torch.where(held > 0, 0.0, change)
        self.p.add_(change).clamp_(0, 1)
        self.seen.zero_()


def places(
    on: dict[str, Tensor], uniform: tuple[Tensor, ...], normal: tuple[Tensor, ...], size: int
) -> Tensor:
    """The source positions of the changed images' pixels: ``(n, 3, 3)``, see :func:`resampled`.

    Args:
        on: for each change, the images to which it is applied.
        uniform: numbers in [0, 1) for the mirror, the quarter turns, both steps and both turns.
        normal: standard normal numbers for the scale, the stretch and both shifts.
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
