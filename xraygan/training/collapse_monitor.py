"""Warnings when the generator has stopped learning, or has collapsed to few images."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

#: steps in a row without a mistake of the discriminator that lead to a warning
PERFECT_STEPS = 200

#: diversity of generated images, as a share of that of real ones, below which there is a warning;
#: working generators have 0.9 to 1.1, see docs/results.md
MIN_DIVERSITY = 0.5

#: share of a run in which diversity is not judged: every generator begins with one image
WARMUP = 0.1

_log = logging.getLogger(__name__)


def discriminator_accuracy(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Share of both batches whose logit has the right sign, ``()`` in [0, 1]."""
    correct = torch.cat([real_scores > 0, fake_scores < 0])
    return correct.float().mean()


def diversity(images: Tensor) -> float:
    """Mean distance of two images ``(N, S, S)`` uint8: the root of their mean squared difference.

    In greys, 0 to 255, averaged over all pairs.
    """
    flat = images.flatten(1).double()
    return float(torch.pdist(flat).mean()) / flat.shape[1] ** 0.5


class CollapseMonitor:
    """Checks logged accuracies and sampled images for signs of collapse, and warns once of each."""

    def __init__(self) -> None:
        self._perfect_steps = 0
        self._warned: set[str] = set()

    def check_accuracy(self, done: int, steps: int, accuracy: float) -> None:
        """Check the discriminator's mean accuracy, in [0, 1], over the last ``steps`` steps."""
        self._perfect_steps = self._perfect_steps + steps if accuracy == 1 else 0
        if self._perfect_steps >= PERFECT_STEPS:
            self._warn_once(
                "discriminator",
                f"step {done}: the discriminator has made no mistake in {self._perfect_steps} "
                "steps, so the generator learns little from it. Train the discriminator less: use "
                "a lower [discriminator.optimizer] lr, or [schedule] phases with more generator "
                "updates",
            )

    def check_diversity(self, done: int, progress: float, generated: float, real: float) -> None:
        """Check the :func:`diversity` of generated images against that of real ones."""
        if progress >= WARMUP and generated < MIN_DIVERSITY * real:
            self._warn_once(
                "diversity",
                f"step {done}: two generated images differ by {generated:.1f} grey levels on "
                f"average, two real ones by {real:.1f}: the generator may have collapsed to a few "
                "images. Look at the samples",
            )

    def _warn_once(self, sign: str, message: str) -> None:
        if sign not in self._warned:
            self._warned.add(sign)
            _log.warning(message)
