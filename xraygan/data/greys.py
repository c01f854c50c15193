"""Grey ranges: which values become black and white, and images that use little of their range."""

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

#: key of a doubt: what may be wrong with an image that can be read -> the predicate of a sentence
#: on several such images
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
class GreyContext:
    """The grey range of the recipe for an image that is being read, and the doubts on the result.

    Attributes:
        grey: the range that the recipe chose.
        used: whether a file was read with it.
        doubts: keys of :data:`DOUBTS`.
    """

    grey: Grey = "full"
    used: bool = False
    doubts: set[str] = field(default_factory=set)


@dataclass
class Picture:
    """A decoded file.

    Attributes:
        pixels: ``(H, W)`` uint8.
        suspect: the key of :data:`DOUBTS` that is the likely reason if it holds few greys; empty
            if that was checked already.
        doubts: the keys of doubts that were found already.
    """

    pixels: np.ndarray
    suspect: str = "range"
    doubts: set[str] = field(default_factory=set)


_current: ContextVar[GreyContext | None] = ContextVar("grey_context", default=None)


@contextmanager
def grey_context(grey: Grey) -> Iterator[GreyContext]:
    """Within it :func:`xraygan.data.images.read_grey` uses a grey range, and records doubts.

    So a dataset's ``load`` need not pass on either.
    """
    context = GreyContext(grey)
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def current_grey_context() -> GreyContext:
    """The context that was entered, or a new one."""
    return _current.get() or GreyContext()


def own_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The least and the greatest value of an image without its outliers: the range ``"image"``.

    At either end :data:`OUTLIERS` of the pixels do not count, and at least one; if no two different
    values remain, all pixels count.

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
    dropped = min(max(1, int(np.ceil(OUTLIERS * pixels))), (pixels - 1) // 2)
    low = values[order[np.searchsorted(below, dropped, side="right")]]
    return float(low), float(values[order[np.searchsorted(below, pixels - dropped, side="left")]])


def has_few_greys(greys: np.ndarray, counts: np.ndarray) -> bool:
    """Whether greys ``(L,)`` in [0, 1], without outliers, span less than :data:`FEW` of 256."""
    low, high = _without_outliers(greys, counts)
    return (high - low) * 255 < FEW


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Floating-point values in [0, 1]: ``low`` becomes 0 and ``high`` 1."""
    return ((values - low) / (high - low or 1.0)).clip(0, 1)


def to_uint8(greys: np.ndarray) -> np.ndarray:
    """Greys in [0, 1] as uint8."""
    return (greys * 255).round().astype(np.uint8)


def rescale_greys(pixels: np.ndarray, grey: Grey) -> np.ndarray:
    """``(H, W)`` uint8 scaled to another grey range."""
    if grey == "full":
        return pixels
    levels = np.arange(256.0)
    if grey == "image":
        grey = own_range(levels, np.bincount(pixels.ravel(), minlength=256))
    return to_uint8(stretch(levels, *grey))[pixels]


def find_doubt(image: np.ndarray, suspect: str) -> str:
    """The key of :data:`DOUBTS` for an image ``(S, S)`` uint8 with too few greys; "" for none.

    Too few are less than :data:`FEW` greys between its darkest and its brightest pixels or, for a
    file of more than 8 bits, no grey above :data:`FEW_OF_WIDE`; :data:`OUTLIERS` do not count.

    Args:
        suspect: the key of :data:`DOUBTS` that is the likely reason.
    """
    if suspect != "wide":
        # A sample of about 256 pixels clears nearly every image.
        step = max(1, len(image) // 16)
        sample = np.sort(image[::step, ::step], axis=None)
        cut = len(sample) // 64
        if sample[-1 - cut] - sample[cut] >= FEW:
            return ""
    counts = np.bincount(image.ravel(), minlength=256)
    low, high = _without_outliers(np.arange(256), counts)
    if suspect == "wide":
        if high < FEW_OF_WIDE:
            return "wide"
        suspect = "range"
    return suspect if high - low < FEW else ""
