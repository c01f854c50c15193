"""The verdict of an audit, and notes on its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memorization import LEVEL, TAIL
from .nearest_neighbors import Neighbours

Object = dict[str, Any]

#: share of generated images unlike the data above which a note says so
NOTED = 0.1


@dataclass(frozen=True)
class Compared:
    """The nearest training images of generated and of held-out images, in one space."""

    generated: Neighbours
    held_out: Neighbours
    figures: Object
    flagged: np.ndarray


def flagged_summary(name: str, space: Compared) -> str:
    """How many generated images are flagged in a space, and how many fresh images would be."""
    return (
        f"{space.figures['flagged']} of {len(space.flagged)} generated images are flagged in "
        f"{name}; about {space.figures['expected']:.0f} fresh images would be"
    )


def verdict(compared: Mapping[str, Compared], members: Object, resemblance: Object) -> Object:
    """The ``verdict``, one of five words, and a sentence in ``says``."""
    flags = flagged_summary(*min(compared.items(), key=lambda item: item[1].figures["p"]))
    if any(space.figures["copies"] for space in compared.values()):
        return {"verdict": "copies", "says": f"COPIES TRAINING IMAGES: {flags}"}
    auc = members.get("relative", {"auc": float("nan")})["auc"]
    separation = f"distances separate training from held-out images with an AUC of {auc:.3f}"
    if members.get("leaks"):
        return {"verdict": "leaks", "says": f"LEAKS MEMBERSHIP: {separation}; {flags}"}
    if resemblance["share"] > 0.5:
        return {"verdict": "unlike", "says": f"INCONCLUSIVE: {dissimilarity(resemblance)}"}
    if all(space.figures["needed"] is None for space in compared.values()):
        reason = "too few images to distinguish any number of copies from chance"
        return {"verdict": "few", "says": f"INCONCLUSIVE: {reason}; {flags}"}
    sentence = f"NO COPYING FOUND: {flags}" + (f"; {separation}" if members["pairs"] else "")
    return {"verdict": "none", "says": sentence}


def dissimilarity(resemblance: Object) -> str:
    """How many generated images do not look like the data, and by which measure."""
    return (
        f"{resemblance['unlike']} of {resemblance['generated']} generated images do not resemble "
        "the data: their correlation with the most similar training image is below "
        f"{resemblance['threshold']:.2f}, half that of a held-out image"
    )


def notes(
    compared: Mapping[str, Compared],
    members: Object,
    resemblance: Object,
    trained_on: str | None,
    fingerprint: str,
    differs: Sequence[str] = (),
) -> list[str]:
    """Notes on the limits of the figures.

    Args:
        trained_on: the fingerprint of the training images; None if unknown.
        fingerprint: the fingerprint of the compared images.
        differs: the differences of the compared images from the training images, one a line.
    """
    notes = _undetectable(compared, members)
    if resemblance["share"] > NOTED:
        notes.append(f"{dissimilarity(resemblance)}; the audit shows nothing about these images")
    notes += [
        f"in {name} more images are flagged than chance explains, but they are near to so few "
        "training images that a generator without variety explains it too: look at audit.png"
        for name, space in compared.items()
        if space.figures["p"] <= space.figures["level"] and not space.figures["copies"]
    ]
    notes += [f"these are not the images of the training: {line}" for line in differs]
    if trained_on != fingerprint and not differs:
        state = "is unknown" if trained_on is None else "differs"
        notes.append(
            "it is not known whether these are the images of the training: the fingerprint in "
            f"environment.json {state}"
        )
    if not members["pairs"]:
        notes.append("no membership: no held-out image has the same labels as a training image")
    elif splits_differ(members):
        notes.append(
            "training and held-out images differ without any generator (membership control, AUC "
            f"{members['control']['auc']:.3f}): membership would measure that difference, so it "
            "does not enter the verdict"
        )
    return notes


def _undetectable(compared: Mapping[str, Compared], members: Object) -> list[str]:
    """The copies and the membership that cannot be detected because there are too few images."""
    notes = [note for name, space in compared.items() if (note := detection_limit(name, space))]
    if members["pairs"] and 0.5 ** members["pairs"] > LEVEL:
        notes.append(
            f"with {members['pairs']} pairs no membership could be distinguished from chance"
        )
    return notes


def detection_limit(name: str, space: Compared) -> str:
    """The number of copies that is too small to detect with so few images; empty if none is."""
    generated, held_out = len(space.flagged), len(space.held_out.rows)
    needed = space.figures["needed"]
    if needed is None:
        return (
            f"with {generated} generated and {held_out} held-out images no number of copies in "
            f"{name} could be distinguished from chance"
        )
    if TAIL * (held_out + 1) < 1:
        return (
            f"only {held_out} images are held out: {space.figures['expected'] / generated:.1%} of "
            f"fresh images are flagged in {name} by chance, and fewer than {needed} copies among "
            f"{generated} generated images ({needed / generated:.1%}) could not be distinguished "
            "from chance"
        )
    return ""


def splits_differ(members: Object) -> bool:
    """Whether training and held-out images can be separated without any generator."""
    low, high = members["control"]["interval"]
    return not low <= 0.5 <= high
