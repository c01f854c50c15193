"""What the networks of one run have to fit: image size, classes, metadata."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from xraygan.utils.tensors import as_float32


@dataclass(frozen=True)
class Task:
    """What the networks of one run have to fit.

    Attributes:
        image_size: S, the side of the square grey images, in pixels.
        classes: the K class names, in the order of every label vector.
        exclusive: True where an image has exactly one class (softmax over K logits), False where
            it may have any number of them (K sigmoids).
        counts: how many training images have each class; None before the data is known.
        images: how many training images there are; None before the data is known.
        metadata: what conditional networks are told beside the labels (``[data] metadata``); see
            :mod:`xraygan.data.metadata`.
    """

    image_size: int
    classes: tuple[str, ...]
    exclusive: bool
    counts: tuple[int, ...] | None = None
    images: int | None = None
    metadata: tuple[str, ...] = ()

    @property
    def condition_size(self) -> int:
        """C, the numbers that a conditional network is given of an image: K labels, then two of
        each metadata."""
        return len(self.classes) + 2 * len(self.metadata)

    def one_hot(self, labels: Tensor) -> Tensor:
        """Labels, ``(N,)`` int64 or ``(N, K)`` float, as ``(N, K)`` float32 vectors."""
        if self.exclusive:
            return F.one_hot(labels, len(self.classes)).float()
        return labels.float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities ``(N, K)`` in [0, 1], float32: softmax rows, or sigmoids."""
        logits = as_float32(logits)
        return logits.softmax(dim=1) if self.exclusive else logits.sigmoid()
