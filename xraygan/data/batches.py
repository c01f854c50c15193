"""Training batches: which images a step draws, and how they are augmented.

Everything is a function of the seed and the step, so that a run can be resumed at any step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xraygan.recipe.schema import Data
from xraygan.recipe.training_images import Augmentation
from xraygan.utils.precision import memory_for_images
from xraygan.utils.seeding import rng
from xraygan.utils.tensors import sent

from .datamodule import to_range
from .image_splits import ImageSplit, JoinedImages, Period, StoredImages

#: exponent of 1 / (class count) in the probability of an image
_RARITY = {"balanced": 1.0, "inverse": 2.0}


class Drawn(NamedTuple):
    """What a batch is made of, on the device.

    Attributes:
        rows: of the images in their split, ``(n,)`` int64.
        images: ``(n, S, S)`` uint8, if the split's images are not on the device.
        theta: the affine transformations of their augmentation, ``(n, 2, 3)``, if there is one.
    """

    rows: Tensor
    images: Tensor | None
    theta: Tensor | None

    def tensors(self) -> list[Tensor]:
        """Those that there are."""
        return [tensor for tensor in self if tensor is not None]

    def of(self, tensors: Iterator[Tensor]) -> Drawn:
        """The same with the next of other tensors in the places of its own."""
        rows, images, theta = (None if own is None else next(tensors) for own in self)
        assert rows is not None
        return Drawn(rows, images, theta)


class Batches:
    """Batches of one split, gathered on the device.

    Args:
        split: the images.
        more: further images, whose rows follow those of the split.
        config: the recipe's ``[data]``.
        exclusive: whether each image has exactly one class.
        batch_size: N; an epoch is the whole batches that the split has, its remainder left out.
        seed: the run's seed.
        device: of the batches. Labels, metadata and the order of an epoch are kept there, and the
            images too, if they fit into half of its free memory. What remains is copied from pinned
            memory, so that no step waits for a GPU.
        stream: a prefix of the names of its random streams; each split needs another.
        periods: which images are drawn from which step on, in the order of their steps; all from
            the first by default.
    """

    def __init__(
        self,
        split: ImageSplit,
        config: Data,
        *,
        exclusive: bool,
        batch_size: int,
        seed: int,
        device: torch.device,
        more: ImageSplit | None = None,
        stream: str = "",
        periods: Sequence[Period] = (),
    ) -> None:
        self.config = config
        self.stream = stream
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        splits = [split] if more is None else [split, more]
        self.count = sum(map(len, splits))
        self.periods = periods or [Period(0, range(self.count))]
        images = split.images if more is None else JoinedImages(split.images, more.images)
        self.images: StoredImages | JoinedImages | Tensor = images
        if device.type == "cuda" and images.nbytes < memory_for_images(device):
            self.images = images.to(device)
        labels = [one.labels(exclusive=exclusive) for one in splits]
        self.labels = torch.cat(labels).to(device)
        self.metadata = {
            name: torch.from_numpy(np.concatenate([one.metadata[name] for one in splits])).to(
                device
            )
            for name in split.metadata
        }
        matrix = np.concatenate([one.label_matrix for one in splits])
        self._rarity = [
            _rarity(matrix[rows.start : rows.stop], config.sampling) for _, rows in self.periods
        ]
        self._epoch: tuple[tuple[int, int], Tensor, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which the images of the last period are drawn once."""
        return len(self.periods[-1].rows) // self.batch_size

    def indices(self, step: int) -> Tensor:
        """The rows ``(N,)`` that step 0, 1, 2, ... trains on, on the processor."""
        return self._order(step)[0]

    def _order(self, step: int) -> tuple[Tensor, Tensor]:
        """The rows ``(N,)`` of a step, on the processor and on the device."""
        index = sum(start <= step for start, _ in self.periods) - 1
        start, drawn = self.periods[index]
        epoch, position = divmod(step - start, len(drawn) // self.batch_size)
        if self._epoch is None or self._epoch[0] != (index, epoch):
            stream = f"{self.stream}order" + (f" {index}" if index else "")
            source, rarity = rng("cpu", self.seed, stream, epoch), self._rarity[index]
            if rarity is None:
                order = torch.randperm(len(drawn), generator=source)
            else:
                order = torch.multinomial(rarity, len(drawn), True, generator=source)
            order += drawn.start
            self._epoch = ((index, epoch), order, sent(order, self.device))
        rows = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return self._epoch[1][rows], self._epoch[2][rows]

    def batch(
        self, step: int, shard: tuple[int, int] = (0, 1)
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Images ``(n, 1, S, S)`` in the recipe's value range, labels and metadata of a step.

        Args:
            shard: an index and a count: which of how many equal parts of the batch.
        """
        return self.gather(self.draw(step, shard))

    def draw(self, step: int, shard: tuple[int, int] = (0, 1)) -> Drawn:
        """What :meth:`gather` makes the batch of a step from: all that depends on the step."""
        part = rows_of(self.batch_size, shard)
        at_hand, rows = (order[part] for order in self._order(step))
        images = theta = None
        if self.images.device.type != self.device.type:
            images = sent(self.images[at_hand], self.device)
        if self.config.augmentation is not None:
            source = rng("cpu", self.seed, f"{self.stream}augmentation", step)
            drawn = transformations(self.config.augmentation, source, self.batch_size)
            theta = sent(drawn[part], self.device)
        return Drawn(rows, images, theta)

    def gather(self, drawn: Drawn) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The images, labels and metadata of a batch, by operations of the device alone."""
        images = self.images[drawn.rows] if drawn.images is None else drawn.images
        images = to_range(images[:, None], self.config.value_range)
        if drawn.theta is not None:
            images = transformed(images, drawn.theta)
        metadata = {name: values[drawn.rows] for name, values in self.metadata.items()}
        return images, self.labels[drawn.rows], metadata


def _rarity(labels: np.ndarray, sampling: str) -> Tensor | None:
    """The weight of each image in the draw, ``(N,)``; None to draw every image once an epoch.

    "balanced" draws each class as often as the others. "inverse" draws a class in inverse
    proportion to its count, so that the rarest dominates, as the released scripts do. An image
    with several classes counts as its rarest; images with none are a class of their own.
    """
    if sampling == "natural":
        return None
    without = (labels.sum(axis=1) == 0).astype(np.uint8)
    classes = np.column_stack([labels, without]).astype(np.float64)
    counts = classes.sum(axis=0).clip(min=1)
    return torch.from_numpy((classes / counts ** _RARITY[sampling]).max(axis=1))


def rows_of(batch_size: int, shard: tuple[int, int]) -> slice:
    """The rows of one of several equal parts of a batch."""
    part, parts = shard
    share = batch_size // parts
    return slice(part * share, (part + 1) * share)


def transformations(config: Augmentation, source: torch.Generator, count: int) -> Tensor:
    """Affine transformations ``(count, 2, 3)`` that crop images at random and mirror some.

    The area (a share of the image's) is uniform in ``scale``, the logarithm of width over height
    uniform in that of ``ratio``. Of ten tries the first that fits into the image is taken, else the
    whole image, as torchvision's RandomResizedCrop does.
    """
    # Ten candidate crops are drawn for each image at once; the first that fits is kept. Crop and
    # mirroring together are one affine transformation, which a bilinear sampling applies.
    n = 1 if config.shared else count
    area = torch.empty(n, 10).uniform_(*config.scale, generator=source)
    low, high = (math.log(bound) for bound in config.ratio)
    ratio = torch.empty(n, 10).uniform_(low, high, generator=source).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    none = ~fits.any(dim=1)
    width = width.gather(1, first)[:, 0].masked_fill(none, 1.0)
    height = height.gather(1, first)[:, 0].masked_fill(none, 1.0)
    left, top = torch.rand(2, n, generator=source) * torch.stack([1 - width, 1 - height])
    zero = torch.zeros(n)
    mirrored = 1 - 2 * (torch.rand(n, generator=source) < config.flip).float()
    theta = torch.stack(
        [mirrored * width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1], dim=1
    ).view(n, 2, 3)
    return theta.expand(count, 2, 3)


def transformed(images: Tensor, theta: Tensor) -> Tensor:
    """Images ``(N, C, S, S)``, bilinearly resampled to their :func:`transformations`."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
