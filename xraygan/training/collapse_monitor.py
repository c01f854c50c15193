"""Signs that the generator has stopped learning, or makes one image: said, not hidden."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

#: steps in a row without one mistake of the discriminator's, after which it is said
PINNED = 200

#: diversity below which it is said; working generators have 0.9 to 1.1, see docs/results.md
LEAST_DIVERSITY = 0.5

#: share of a run before which little diversity is no sign: every generator begins with one image
BEGINNING = 0.1

_log = logging.getLogger(__name__)


def discriminator_accuracy(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Share of both batches whose logit has the right sign, ``()`` in [0, 1]."""
    right = torch.cat([real_scores > 0, fake_scores < 0])
    return right.float().mean()


def diversity(images: Tensor) -> float:
    """Mean distance of two images ``(N, S, S)`` uint8: the root of their mean squared difference.

    In greys, 0 to 255, averaged over all pairs.
    """
    flat = images.flatten(1).double()
    return float(torch.pdist(flat).mean()) / flat.shape[1] ** 0.5


class Watch:
    """Looks at what is logged and sampled, and warns once for each sign."""

    def __init__(self) -> None:
        self._perfect = 0
        self._said: set[str] = set()

    def accuracy(self, done: int, steps: int, accuracy: float) -> None:
        """Note the discriminator's mean accuracy over the last ``steps`` steps."""
        self._perfect = self._perfect + steps if accuracy == 1 else 0
        if self._perfect >= PINNED:
            self._say(
                "discriminator",
                f"step {done}: the discriminator has not been wrong once in {self._perfect} steps; "
                "the generator learns little from it. Let it learn less: a lower "
                "[discriminator.optimizer] lr, or [schedule] phases with more generator updates",
            )

    def samples(self, done: int, progress: float, ours: float, real: float) -> None:
        """Note the diversity of generated and of real images."""
        if progress >= BEGINNING and ours < LEAST_DIVERSITY * real:
            self._say(
                "diversity",
                f"step {done}: two generated images differ by {ours:.1f} grey levels on average, "
                f"two real ones by {real:.1f}: the generator may have collapsed to a few images. "
                "Look at the samples",
            )

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning(text)
