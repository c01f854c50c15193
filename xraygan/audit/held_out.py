"""The held-out images of an audit, and pairs of members and non-members of the training set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xraygan.errors import UserError
from xraygan.parts.evaluation import SplitImages

MOST = 2000  # most held-out images, one for each patient


@dataclass(frozen=True)
class HeldOut:
    """The held-out images of the audit, and pairs of members and non-members of the training set.

    One image for each patient, so that the images are independent, as the tests assume.

    Attributes:
        rows: ``(H,)`` test images with labels that training images have.
        non_members: ``(M,)`` some of ``rows``.
        members: ``(M,)`` training images, each with the labels of its partner in ``non_members``.
    """

    rows: np.ndarray
    non_members: np.ndarray
    members: np.ndarray

    @classmethod
    def draw(cls, train: SplitImages, test: SplitImages, random: np.random.Generator) -> HeldOut:
        """Draw held-out images and pairs at random.

        Raises:
            UserError: no test image has the labels of a training image.
        """
        train_labels, test_labels = _label_keys(train), _label_keys(test)
        known = set(train_labels)
        rows = [row for row in _one_a_patient(test, random) if test_labels[row] in known][:MOST]
        if not rows:
            raise UserError(
                "[data]: no test image has the labels of a training image. The audit needs images "
                "that the generator was not trained on: give the dataset a test split with the "
                "same classes"
            )
        unpaired: dict[bytes, list[int]] = {}
        for row in _one_a_patient(train, random):
            unpaired.setdefault(train_labels[row], []).append(row)
        pairs = [
            (row, unpaired[test_labels[row]].pop())
            for row in rows
            if unpaired.get(test_labels[row])
        ]
        non_members, members = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(np.array(rows), non_members, members)


def _label_keys(split: SplitImages) -> list[bytes]:
    """The labels of each image as a hashable key."""
    return [row.tobytes() for row in split.label_matrix]


def _one_a_patient(split: SplitImages, random: np.random.Generator) -> np.ndarray:
    """The row of a random image of each patient, in random order."""
    order = random.permutation(len(split))
    first = np.unique(split.patients[order], return_index=True)[1]
    return random.permutation(order[first])
