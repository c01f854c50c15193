"""Consistency of the classifier with the average of its weights, under random perturbations."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xraygan import Score, Step


def sigmoid_ramp(elapsed: Tensor, length: float) -> Tensor:
    """exp(-5 (1 - t/T)^2) for t < T, then 1; t is ``elapsed``, ``()``, and T ``length``."""
    if not length:
        return torch.ones_like(elapsed)
    return torch.exp(-5 * (1 - elapsed / length).clamp(min=0) ** 2)


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by its own whole number of pixels; its edge is repeated.

    Args:
        images: ``(N, 1, S, S)``.
        down, right: ``(N,)`` int64, in pixels.
    """
    index = torch.arange(images.shape[-1], device=images.device)
    rows, columns = ((index - shift[:, None]).clamp(0, len(index) - 1) for shift in (down, right))
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return images[image, 0, rows[:, :, None], columns[:, None, :]][:, None]


class MeanTeacher(Score):
    """Consistency of the classifier with its own average, the mean teacher

    r(t) mean_{i,k} (p_k(x_i + noise; w) - p_k(x_i + other noise; w'))^2 over a batch of unlabelled
    images, or of the labelled images if the recipe has no unlabelled ones. p are class
    probabilities, w the classifier's weights, and w' <- a w' + (1 - a) w their exponential moving
    average, with a = [classifier] average; no gradient passes through w'. For each of the two
    networks the images are moved by a random number of whole pixels, with the edge repeated, and
    get new Gaussian noise. The weight r(t) = exp(-5 (1 - t/T)^2) rises in the first share T of the
    run and is 1 after it.

    Batch normalization uses the mean and variance of these batches. The running statistics are not
    updated: they are of real, labelled, unperturbed images.

    Source: Tarvainen and Valpola, arXiv:1703.01780; for chest X-rays Liu et al., arXiv:2103.03629.

    Args:
        noise: standard deviation of the Gaussian noise, where black is -1 and white 1; 0 for none.
        translation: the largest shift down, up, left or right, as a share of the image's side.
        ramp_up: T, as a share of the run; 0 for the full weight from the beginning.
    """

    trains = ("classifier",)
    reads = ("classifier",)
    averages = ("classifier",)

    def __init__(
        self,
        *,
        noise: Annotated[float, Field(ge=0)] = 0.15,
        translation: Annotated[float, Field(ge=0, lt=1)] = 0.0625,
        ramp_up: Annotated[float, Field(ge=0, le=1)] = 0.25,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.translation = translation
        self.ramp_up = ramp_up

    def forward(self, step: Step) -> Tensor:
        images = step.real if step.unlabelled is None else step.unlabelled
        student = step.classify(self.perturb(images, step))
        with torch.no_grad():
            teacher = step.classify(self.perturb(images, step), averaged=True)
        probs, target = (step.task.probabilities(out["logits"]) for out in (student, teacher))
        weight = sigmoid_ramp(step.elapsed, self.ramp_up).to(probs.dtype)
        return weight * F.mse_loss(probs, target)

    def perturb(self, images: Tensor, step: Step) -> Tensor:
        """Move the images and add noise, with random numbers for each image."""
        source: dict[str, Any] = {"generator": step.rng, "device": images.device}
        largest = round(self.translation * images.shape[-1])
        if largest:
            span = (-largest, largest + 1)
            shifts = step.draw(lambda n: torch.randint(*span, (n, 2), **source))
            images = translate(images, *shifts.unbind(dim=1))
        if self.noise:
            noise = step.draw(lambda n: torch.randn(n, *images.shape[1:], **source))
            images = images + self.noise * noise
        return images
