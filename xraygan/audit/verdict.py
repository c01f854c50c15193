"""What an audit says in words: its verdict, and what to know before trusting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memorization import LEVEL, TAIL
from .nearest_neighbors import Neighbours

Object = dict[str, Any]

#: share of generated images that do not resemble the data from which on that is noted
NOTED = 0.1


@dataclass(frozen=True)
class Compared:
    """The nearest training images of generated and of held-out images, in one space."""

    generated: Neighbours
    held_out: Neighbours
    figures: Object
    flagged: np.ndarray


def flagged_summary(name: str, found: Compared) -> str:
    """How many generated images are flagged in a space, and how many fresh images would be."""
    return (
        f"{found.figures['flagged']} of {len(found.flagged)} generated images are flagged in "
        f"{name}, of fresh ones about {found.figures['expected']:.0f} would be"
    )


def verdict(compared: Mapping[str, Compared], members: Object, alike: Object) -> Object:
    """The ``verdict``, one of five words, and a sentence in ``says``."""
    how_many = flagged_summary(*min(compared.items(), key=lambda item: item[1].figures["p"]))
    if any(found.figures["copies"] for found in compared.values()):
        return {"verdict": "copies", "says": f"COPIES TRAINING IMAGES: {how_many}"}
    found = members.get("relative", {"auc": float("nan")})
    tells = f"distances separate training from held-out images with an AUC of {found['auc']:.3f}"
    if members.get("leaks"):
        return {"verdict": "leaks", "says": f"LEAKS MEMBERSHIP: {tells}; {how_many}"}
    if alike["share"] > 0.5:
        return {"verdict": "unlike", "says": f"INCONCLUSIVE: {dissimilarity(alike)}"}
    if all(found.figures["needed"] is None for found in compared.values()):
        reason = "too few images to distinguish any number of copies from chance"
        return {"verdict": "few", "says": f"INCONCLUSIVE: {reason}; {how_many}"}
    says = f"NO COPYING FOUND: {how_many}" + (f"; {tells}" if members["pairs"] else "")
    return {"verdict": "none", "says": says}


def dissimilarity(alike: Object) -> str:
    """How many generated images do not look like the data, and by which measure."""
    return (
        f"{alike['unlike']} of {alike['generated']} generated images do not resemble the data: "
        "their correlation with the most similar training image is below "
        f"{alike['threshold']:.2f}, half that of a held-out image"
    )


def notes(
    compared: Mapping[str, Compared],
    members: Object,
    alike: Object,
    trained_on: str | None,
    fingerprint: str,
    differs: Sequence[str] = (),
) -> list[str]:
    """What a reader should know before trusting the figures.

    Args:
        trained_on: the fingerprint of the images of the training, None if it is not known.
        fingerprint: that of the images that were compared.
        differs: in what these are not those of the training, in lines.
    """
    notes = _few(compared, members)
    if alike["share"] > NOTED:
        notes.append(f"{dissimilarity(alike)}; the audit shows nothing about these images")
    notes += [
        f"in {name} more images are flagged than chance explains, but near to so few training "
        "images that a generator without variety explains it too: look at audit.png"
        for name, found in compared.items()
        if found.figures["p"] <= found.figures["level"] and not found.figures["copies"]
    ]
    notes += [f"these are not the images of the training: {line}" for line in differs]
    if trained_on != fingerprint and not differs:
        known = "is unknown" if trained_on is None else "differs"
        notes.append(
            "whether these are the images of the training cannot be told: the fingerprint in "
            f"environment.json {known}"
        )
    if not members["pairs"]:
        notes.append("no membership: no held-out image has a training image of its own labels")
    elif splits_differ(members):
        notes.append(
            "training and held-out images differ without any generator (membership control, AUC "
            f"{members['control']['auc']:.3f}): membership would measure that, and is not judged"
        )
    return notes


def _few(compared: Mapping[str, Compared], members: Object) -> list[str]:
    """The copies and the membership that cannot be detected because there are too few images."""
    notes = [note for name, found in compared.items() if (note := detection_limit(name, found))]
    if members["pairs"] and 0.5 ** members["pairs"] > LEVEL:
        notes.append(
            f"with {members['pairs']} pairs no membership could be told from chance, however clear"
        )
    return notes


def detection_limit(name: str, found: Compared) -> str:
    """Which copies in a space could not have been seen, for want of images; empty if all could."""
    made, held = len(found.flagged), len(found.held_out.rows)
    needed = found.figures["needed"]
    if needed is None:
        return (
            f"with {made} generated and {held} held-out images no number of copies in {name} "
            "could be told from chance"
        )
    if TAIL * (held + 1) < 1:
        return (
            f"only {held} images are held out: {found.figures['expected'] / made:.1%} of fresh "
            f"images are flagged in {name} by chance, and fewer than {needed} copies among "
            f"{made} generated images ({needed / made:.1%}) could not be told from that"
        )
    return ""


def splits_differ(members: Object) -> bool:
    """Whether training and held-out images can be told apart without any generator."""
    low, high = members["control"]["interval"]
    return not low <= 0.5 <= high
