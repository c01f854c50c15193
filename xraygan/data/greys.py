"""Ranges of grey: which values become black and white, and images of which little is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

#: ``[data] grey``: the whole range of the file, the image's own, or fixed values
Grey = Literal["full", "image"] | tuple[float, float]

#: the share of the pixels at either end of the greys that may be hot, dead or burnt in
OUTLIERS = 0.0005
FEW = 32  # greys of 256 between the darkest and the brightest pixels but those
FEW_OF_WIDE = 64  # the brightest grey of 256 that a file of 16 bits should reach

#: what may be wrong with an image that can be read -> how it is said of several of them
DOUBTS = {
    "range": "use less than 1/8 of their grey range; data.grey chooses another",
    "wide": "use less than 1/4 of the range that the bits of their file have; if it holds 12-bit "
    "values in 16 bits, set data.grey = [0, 4095]",
    "outliers": "are nearly one grey, because a few pixels lie far from all others; "
    'data.grey = "image" leaves those out',
    "window": "are nearly one grey in the window or VOI LUT of their DICOM file; "
    'data.grey = "image" takes their own range instead',
    "lut": "have a VOI LUT whose entries need other bits than it declares; they are read with as "
    "many as they need",
}


@dataclass
class Reading:
    """How an image is to be read, and what was noticed.

    Attributes:
        grey: the range that the recipe chose.
        asked: whether a file was read with it.
        doubts: keys of :data:`DOUBTS`.
    """

    grey: Grey = "full"
    asked: bool = False
    doubts: set[str] = field(default_factory=set)


@dataclass
class Picture:
    """A decoded file.

    Attributes:
        pixels: ``(H, W)`` uint8.
        suspect: the key of :data:`DOUBTS` that is the likely reason if it holds few greys; empty
            where that was looked at already.
        doubts: what was noticed already.
    """

    pixels: np.ndarray
    suspect: str = "range"
    doubts: set[str] = field(default_factory=set)


_now: ContextVar[Reading | None] = ContextVar("reading", default=None)


@contextmanager
def reading(grey: Grey) -> Iterator[Reading]:
    """Within it :func:`xraygan.data.images.read_grey` uses a range, and notes what it doubts.

    So a dataset's ``load`` need not know of either.
    """
    found = Reading(grey)
    token = _now.set(found)
    try:
        yield found
    finally:
        _now.reset(token)


def present_reading() -> Reading:
    """The one that is entered, or a new one."""
    return _now.get() or Reading()


def own_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The least and the greatest of an image's values, but for the outliers of ``"image"``.

    At either end :data:`OUTLIERS` of the pixels do not count, and at least one; where nothing else
    is left, all do.

    Args:
        values: ``(L,)``, in any order.
        counts: ``(L,)`` int, how many pixels have each.
    """
    low, high = _without_outliers(values, counts)
    if not low < high:
        counted = values[counts > 0]
        low, high = float(counted.min()), float(counted.max())
    return low, high


def _without_outliers(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    below = np.cumsum(counts[order])
    pixels = int(below[-1])
    out = min(max(1, int(np.ceil(OUTLIERS * pixels))), (pixels - 1) // 2)
    low = values[order[np.searchsorted(below, out, side="right")]]
    return float(low), float(values[order[np.searchsorted(below, pixels - out, side="left")]])


def few_are_left(greys: np.ndarray, counts: np.ndarray) -> bool:
    """Whether greys ``(L,)`` in [0, 1], but for outliers, are less than :data:`FEW` of 256."""
    low, high = _without_outliers(greys, counts)
    return (high - low) * 255 < FEW


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Floating-point values in [0, 1]: ``low`` becomes 0 and ``high`` 1."""
    return ((values - low) / (high - low or 1.0)).clip(0, 1)


def to_bytes(greys: np.ndarray) -> np.ndarray:
    """Greys in [0, 1] as uint8."""
    return (greys * 255).round().astype(np.uint8)


def regreyed(pixels: np.ndarray, grey: Grey) -> np.ndarray:
    """``(H, W)`` uint8 in another range."""
    if grey == "full":
        return pixels
    levels = np.arange(256.0)
    if grey == "image":
        grey = own_range(levels, np.bincount(pixels.ravel(), minlength=256))
    return to_bytes(stretch(levels, *grey))[pixels]


def doubt_of(image: np.ndarray, suspect: str) -> str:
    """What to say of an image ``(S, S)`` uint8 of which too little is left; "" for nothing.

    Too little are less than :data:`FEW` greys between its darkest and its brightest pixels, and of
    a file of more than 8 bits no grey above :data:`FEW_OF_WIDE`; :data:`OUTLIERS` do not count.

    Args:
        suspect: the key of :data:`DOUBTS` that is the likely reason.
    """
    if suspect != "wide":
        # Of nearly every image 256 pixels show it at once.
        step = max(1, len(image) // 16)
        some = np.sort(image[::step, ::step], axis=None)
        cut = len(some) // 64
        if some[-1 - cut] - some[cut] >= FEW:
            return ""
    counts = np.bincount(image.ravel(), minlength=256)
    low, high = _without_outliers(np.arange(256), counts)
    if suspect == "wide":
        if high < FEW_OF_WIDE:
            return "wide"
        suspect = "range"
    return suspect if high - low < FEW else ""
