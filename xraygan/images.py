"""Images: files to grey pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

from .errors import UserError

# A chest radiograph of 10,000 x 10,000 pixels does not exist; a decompression bomb does.
Image.MAX_IMAGE_PIXELS = 100_000_000


def read_grey(path: Path, size: int) -> np.ndarray:
    """Decode an image file to grey and resize it.

    Colour is reduced by ITU-R 601 luma, which leaves equal channels as they are; transparency is
    dropped; 16-bit greys are scaled to 8 bits, 65,535 to 255. The whole picture is squeezed into
    the square, as the paper does (Sec. 5.4, note 4), with an antialiased bilinear filter; what is
    more than four times as large is first averaged down by a whole number to twice the size or
    more. A JPEG is decoded to grey straight away, and only as finely as twice the size needs.

    Args:
        path: a file that Pillow can open.
        size: S, pixels.

    Returns:
        ``(S, S)`` uint8.

    Raises:
        UserError: the file is missing, cannot be decoded as an image, has more pixels than
            ``Image.MAX_IMAGE_PIXELS``, or has greys of no known range (floating point, or beyond
            16 bits).
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (a Path's own open takes longer)
            grey = _plain_jpeg(file, size) or _decode(file, size)
    except FileNotFoundError:
        raise UserError(f"{path}: the image is not there") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None
    if grey.size != (size, size):
        # Halved by averages as far as twice the wanted size: a sixth of a large PNG's time.
        grey = grey.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(grey)  # a copy: the view that asarray gives is read-only, which torch warns of


def _plain_jpeg(file: BinaryIO, size: int) -> Image.Image | None:
    """A JPEG decoded past Pillow to the same greys, in four fifths of the time.

    None for whatever else a file holds, and for a damaged one: Pillow says what is wrong with it.
    """
    start = file.read(3)
    file.seek(0)
    if start != b"\xff\xd8\xff":
        return None
    data = file.read()
    file.seek(0)
    if b"Exif\0" in data or b"MPF\0" in data:  # it may lie on its side, or be several pictures
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr") or width * height > (Image.MAX_IMAGE_PIXELS or 2**62):
            return None
        # As Pillow's draft does, though the library could scale by any number of eighths.
        scale = next(s for s in (8, 4, 2, 1) if s == 1 or min(height, width) // (2 * size) >= s)
        height, width = -(-height // scale), -(-width // scale)
        grey = simplejpeg.decode_jpeg(
            data, "GRAY", min_height=height, min_width=width, min_factor=1
        )
    except ValueError:
        return None
    return Image.fromarray(grey[:, :, 0])


def _decode(file: BinaryIO, size: int) -> Image.Image:
    with Image.open(file) as image:
        # Pillow itself warns above its limit and refuses only above twice that.
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {limit:,}")
        # For JPEGs alone, which hold luma by itself, and blocks that halve: half the time.
        image.draft("L", (2 * size, 2 * size))
        image.info.pop("transparency", None)  # of a palette, Pillow would warn of losing it
        if image.mode.startswith(("I", "F")):
            wide = np.asarray(image, dtype=np.float32)
            if image.mode == "F" or wide.min() < 0 or wide.max() > 65535:
                raise ValueError("its greys are not 8-bit or 16-bit, so its white is unknown")
            return Image.fromarray((wide / 257.0).round().astype(np.uint8))
        return image.convert("L")


def file_identity(root: Path, path: str) -> str:
    """The size and the time of change of a file, for :meth:`xraygan.Dataset.identity`.

    Empty where there is none: reading the image says what is wrong.
    """
    try:
        about = os.stat(f"{root}/{path}")  # noqa: PTH116  (half the time of a Path's, for 112,120)
    except OSError:
        return ""
    return f"{about.st_size}:{about.st_mtime_ns}"
