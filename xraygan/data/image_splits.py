"""The images of a split: their rows of a store, their labels, patients and metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .metadata import encode, metadata_columns


@dataclass(frozen=True)
class StoredImages:
    """Some rows of a store, in any order, read when they are used.

    Index it as a tensor ``(N, S, S)`` uint8: ``images[3]``, ``images[:64]``, ``images[rows]``.

    Attributes:
        pixels: see :class:`Store`.
        rows: ``(N,)`` int64, the rows of ``pixels``.
    """

    pixels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        return self.pixels[self.rows[index]]

    def take(self, rows: Tensor) -> StoredImages:
        """Some of them, not read yet, by their rows ``(n,)`` int64 among these."""
        return StoredImages(self.pixels, self.rows[rows])

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        """Bytes that all of them would take in memory."""
        return len(self) * self.pixels.shape[1:].numel()

    def to(self, device: torch.device) -> Tensor:
        """All of them on a device, ``(N, S, S)`` uint8; a few at a time pass through the CPU's
        memory."""
        images = torch.empty((len(self), *self.pixels.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(self), 4096):
            part = slice(start, start + 4096)
            images[part] = self[part].to(device)
        return images


@dataclass(frozen=True)
class JoinedImages:
    """The images of two stores, those of the second after those of the first.

    Index it with rows ``(n,)`` int64.
    """

    first: StoredImages
    second: StoredImages

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: Tensor) -> Tensor:
        size = self.first.pixels.shape[1:]
        images = torch.empty((len(rows), *size), dtype=torch.uint8, device=self.device)
        own = rows < len(self.first)
        images[own] = self.first[rows[own]]
        images[~own] = self.second[rows[~own] - len(self.first)]
        return images

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def nbytes(self) -> int:
        """Bytes that all of them would take in memory."""
        return self.first.nbytes + self.second.nbytes

    def to(self, device: torch.device) -> Tensor:
        """All of them on a device, ``(N, S, S)`` uint8."""
        return torch.cat([self.first.to(device), self.second.to(device)])


@dataclass
class ImageSplit:
    """The images of one split, with the labels, patient, path and metadata of each.

    Attributes:
        images: its rows of the store.
        label_matrix: ``(N, K)`` uint8, 1 where the image has the class.
        patients: ``(N,)`` str.
        metadata: ``age``, ``sex`` and ``view``, as
            :func:`xraygan.data.metadata.metadata_columns` gives them.
    """

    images: StoredImages
    label_matrix: np.ndarray
    patients: np.ndarray
    paths: list[str]
    metadata: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> ImageSplit:
        """Some of its images, in the order of their rows ``(n,)`` int64."""
        return ImageSplit(
            images=self.images.take(torch.from_numpy(rows)),
            label_matrix=self.label_matrix[rows],
            patients=self.patients[rows],
            paths=[self.paths[row] for row in rows],
            metadata={name: column[rows] for name, column in self.metadata.items()},
        )

    def fingerprint(self) -> str:
        """A sha256 over the paths, patients, labels and pixels of its images, in their order."""
        rows = [self.paths, self.patients.tolist(), self.label_matrix.tolist()]
        digest = hashlib.sha256(json.dumps(rows).encode())
        for start in range(0, len(self), 4096):
            digest.update(self.images[start : start + 4096].numpy().data)
        return digest.hexdigest()

    def encoded(self, names: Sequence[str]) -> Tensor:
        """The metadata of some names as networks read it, ``(N, 2 M)``."""
        values = {name: torch.from_numpy(column) for name, column in self.metadata.items()}
        return encode(values, names, len(self))

    def labels(self, *, exclusive: bool) -> Tensor:
        """``(N,)`` int64 class indices, or ``(N, K)`` float32 if an image may have several
        classes."""
        matrix = torch.from_numpy(self.label_matrix)
        return matrix.argmax(dim=1) if exclusive else matrix.float()


class Period(NamedTuple):
    """Steps of a run that draw from the same images.

    Attributes:
        start: its first step.
        rows: the images, of those that :class:`xraygan.data.batches.Batches` has.
    """

    start: int
    rows: range


def build_split(
    pixels: Tensor, table: pd.DataFrame, mask: np.ndarray, classes: Sequence[str]
) -> ImageSplit:
    """The split of the rows of a table where ``mask`` is True."""
    rows = table[mask]
    # A label vector for each combination of labels, of which there are far fewer than images.
    combinations = {labels: i for i, labels in enumerate(dict.fromkeys(rows["labels"]))}
    vectors = [[name in labels for name in classes] for labels in combinations]
    matrix = np.array(vectors, dtype=np.uint8).reshape(len(vectors), len(classes))
    return ImageSplit(
        images=StoredImages(pixels, torch.from_numpy(np.flatnonzero(mask))),
        label_matrix=matrix[[combinations[labels] for labels in rows["labels"]]],
        patients=rows["patient"].to_numpy(dtype=str),
        paths=list(rows["path"]),
        metadata=metadata_columns(rows),
    )
