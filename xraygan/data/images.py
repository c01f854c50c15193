"""Reads image files as grey pixels."""

from __future__ import annotations

import logging
import os
import stat
import threading
import warnings
from io import BufferedReader
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile, UnidentifiedImageError

from xraygan.errors import UserError

from .dicom import HEAD, decode_dicom, is_dicom
from .file_digests import file_identity as file_identity
from .greys import (
    Grey,
    Picture,
    current_grey_context,
    find_doubt,
    own_range,
    rescale_greys,
    stretch,
    to_uint8,
)
from .image_kinds import (
    MAX_BYTES,
    check_bytes,
    describe_unopened,
    is_inverted,
    is_unsigned,
    white_level,
)

# A chest radiograph of 10,000 x 10,000 pixels does not exist; a decompression bomb does.
Image.MAX_IMAGE_PIXELS = 100_000_000
ImageFile.LOAD_TRUNCATED_IMAGES = False  # or what is cut off would be grey

#: formats that are read; others that Pillow knows start programs (EPS) or are no pictures
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
MIN_SIDE = 4  # pixels: less is a dot or a line
ROWS = 256  # converted at once: all of a large picture as floating-point would fill the memory

#: EXIF's orientation -> the transposition that turns the picture upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112


def read_grey(path: Path, size: int, grey: Grey | None = None) -> np.ndarray:
    """Decode an image file to grey and resize it.

    Colour is reduced by ITU-R 601 luma, which leaves equal channels as they are; transparency is
    dropped. Greys of more than 8 bits are scaled to 8, the greatest value of the file's bits to 255
    (65,535 of 16). A picture that says in its EXIF data that it lies on its side is turned
    upright, as viewers show it. A DICOM file, known by its content or its suffix, is read as
    :func:`xraygan.data.dicom.decode_dicom` says. The whole picture is squeezed into the square,
    as the paper does (Sec. 5.4, note 4), with an antialiased bilinear filter; what is at least
    four times as large is first averaged down by a whole number to twice the size or more. A JPEG
    is decoded to grey straight away, and only as finely as twice the size needs.

    Args:
        path: a file in one of :data:`FORMATS`, or DICOM.
        size: S, pixels.
        grey: which values become black and white; by default what the recipe says (``[data] grey``)
            while the image store is written, else ``"full"``. ``"image"``: the least and the
            greatest value of the image, but for 0.05 % of its pixels at either end, at least one.
            ``(low, high)``: these values, as the file stores them; of 8 bits or fewer, and of a
            palette, the 8-bit greys that they stand for.

    Returns:
        ``(S, S)`` uint8.

    Raises:
        UserError: the file is missing, cannot be decoded as one picture, has less than
            :data:`MIN_SIDE` pixels on a side or more than ``Image.MAX_IMAGE_PIXELS``, or has greys
            of no known range (floating point, or beyond 16 bits, with ``"full"``), or is of a kind
            that Pillow reads wrongly (:mod:`xraygan.data.image_kinds`).
    """
    context = current_grey_context()
    context.used = True
    grey = context.grey if grey is None else grey
    picture = _read_picture(path, size, grey)
    resized = _resize(picture.pixels, size)
    context.doubts |= picture.doubts
    if picture.suspect and (doubt := find_doubt(resized, picture.suspect)):
        context.doubts.add(doubt)
    return resized


def _read_picture(path: Path, size: int, grey: Grey) -> Picture:
    """Decode a file, as finely as ``size`` needs.

    Raises:
        UserError: the file cannot be read, or its picture is too small.
    """
    try:
        with _open(path) as file:
            luma = _decode_jpeg(file, size)
            if luma is not None:
                picture = Picture(rescale_greys(luma, grey))
            else:
                picture = _decode_other(file, path.suffix, size, grey)
    except FileNotFoundError:
        raise UserError(f"{path}: the image is not there") from None
    except Exception as error:  # decoders raise errors of every kind for a damaged file
        raise UserError(f"{path}: not a readable image ({_reason(error)})") from None
    height, width = picture.pixels.shape
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"{path}: not a readable image ({width} x {height} pixels; {MIN_SIDE} x {MIN_SIDE} are "
            "the least)"
        )
    return picture


def _open(path: Path) -> BufferedReader:
    info = os.stat(path)  # noqa: PTH116  (half the time of a Path's)
    if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
        raise ValueError("a folder" if stat.S_ISDIR(info.st_mode) else "no regular file")
    if info.st_size == 0:
        raise ValueError("the file is empty")
    if info.st_size > MAX_BYTES:
        raise ValueError(f"{info.st_size:,} bytes, more than {MAX_BYTES:,}")
    return open(path, "rb")  # noqa: PTH123


def _decode_jpeg(file: BufferedReader, size: int) -> np.ndarray | None:
    """Decode a plain JPEG without Pillow to the same greys ``(H, W)``, in three fifths of the time.

    None for every other file, and for a damaged one, for which Pillow gives the reason.
    """
    if file.peek(3)[:3] != b"\xff\xd8\xff":
        return None
    data = file.read()
    if b"Exif\0" in data or b"MPF\0" in data:  # it may be rotated, or hold several pictures
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr") or width * height > (Image.MAX_IMAGE_PIXELS or 2**62):
            return None
        check_bytes((width, height), 2 if colours == "Gray" else 6)  # of a progressive JPEG
        # The scales of Pillow's draft(), though this library could scale by any number of eighths.
        scale = next(s for s in (8, 4, 2, 1) if s == 1 or min(height, width) // (2 * size) >= s)
        height, width = -(-height // scale), -(-width // scale)
        grey = simplejpeg.decode_jpeg(
            data, "GRAY", min_height=height, min_width=width, min_factor=1
        )
    except ValueError:
        return None
    return grey[:, :, 0]


def _decode_other(file: BufferedReader, suffix: str, size: int, grey: Grey) -> Picture:
    """Decode any other file, and turn its picture upright."""
    file.seek(0)
    dicom = is_dicom(file.read(HEAD), suffix)
    file.seek(0)
    with _quiet:
        if not dicom:
            return _decode_with_pillow(file, size, grey)
        return decode_dicom(file.read(), Image.MAX_IMAGE_PIXELS or 2**62, grey)


def _decode_with_pillow(file: BufferedReader, size: int, grey: Grey) -> Picture:
    try:
        opened = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(
            describe_unopened(file) or f"of none of the formats {', '.join(FORMATS)}, DICOM"
        ) from None
    with opened as image:
        # Pillow itself warns above its limit and refuses only above twice that.
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {limit:,}")
        if getattr(image, "is_animated", False):  # counting its frames may take long
            raise ValueError("several pictures; save the one that counts as a file of its own")
        white = white_level(image, file)
        # For JPEGs alone: decodes only the luma, at a half, a quarter or an eighth of the size.
        image.draft("L", (2 * size, 2 * size))
        image.info.pop("transparency", None)  # of a palette: only its colours count
        if image.mode.startswith(("I", "F")):
            pixels = _scale_to_bytes(image, white, grey)
        elif white > 255 and grey != "full":
            raise ValueError(
                "its colours have more than 8 bits, of which 8 are read: data.grey needs a file of "
                "greys"
            )
        else:
            # A copy, because asarray gives a read-only view, of which torch warns.
            pixels = rescale_greys(np.array(image.convert("L")), grey)
        if (transposition := _upright_transposition(image)) is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(transposition))
        return Picture(pixels, "wide" if white > 255 and grey == "full" else "range")


def _scale_to_bytes(image: Image.Image, white: int, grey: Grey) -> np.ndarray:
    """The greys of a picture of more than 8 bits as ``(H, W)`` uint8."""
    # Pillow scales the values of these two formats to 16 bits.
    scale = {"PPM": 65535 / white, "JPEG2000": 65536 // (white + 1)}.get(image.format or "", 1)
    scale = 1 if image.mode == "F" else scale
    values = np.asarray(image)
    values = values.view(np.uint32) if is_unsigned(image) else values
    if grey == "full":
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                "its greys are not 8-bit or 16-bit, so its white is unknown; data.grey can name it"
            )
        grey = (0.0, white)
    elif not np.isfinite(values).all():
        raise ValueError("its greys are not all numbers")
    low, high = own_range(*np.unique(values, return_counts=True)) if grey == "image" else grey
    if grey != "image":
        low, high = low * scale, high * scale
    pixels = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), ROWS):
        greys = stretch(values[top : top + ROWS].astype(np.float64), low, high)
        pixels[top : top + ROWS] = to_uint8(1 - greys if is_inverted(image) else greys)
    return pixels


def _upright_transposition(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns a loaded picture upright; none if Pillow has done so (TIFF)."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return None  # damaged EXIF data do not concern the pixels


def _resize(grey: np.ndarray, size: int) -> np.ndarray:
    """``(H, W)`` uint8 resized to ``(S, S)`` by an antialiased bilinear filter."""
    if grey.shape == (size, size):
        return grey
    if min(grey.shape) >= 4 * size:
        # reducing_gap averages whole blocks first: a third of the time of the filter alone.
        image = Image.fromarray(grey)
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))
    # torch's filter uses vector instructions, which Pillow's does not: half of its time. The longer
    # side comes first, or a strip of 4 x 25,000,000 pixels would become many gigabytes.
    tall = grey if grey.shape[0] >= grey.shape[1] else grey.T
    small = _resize_height(_resize_height(tall, size).T, size)
    return np.ascontiguousarray(small.T if tall is grey else small)


def _resize_height(grey: np.ndarray, height: int) -> np.ndarray:
    """``(H, W)`` to ``(height, W)``."""
    width = grey.shape[1]
    # Columns are independent here, so four of them can be the channels of a pixel, for which torch
    # has vector instructions.
    channels = 4 if width % 4 == 0 else 1
    pixels = torch.from_numpy(np.ascontiguousarray(grey)).view(1, -1, width // channels, channels)
    resized = F.interpolate(
        pixels.permute(0, 3, 1, 2), (height, width // channels), mode="bilinear", antialias=True
    )
    return resized.permute(0, 2, 3, 1).reshape(height, width).numpy()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class _Quiet:
    """Within it decoders neither warn nor log, because their messages may quote a patient's data.

    A fault that prevents reading an image is raised instead. Several threads may be inside; the
    last one to leave restores warnings and loggers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught: warnings.catch_warnings | None = None
        self._loggers = [logging.getLogger(name) for name in ("PIL", "pydicom")]
        for logger in self._loggers:
            logger.addHandler(logging.NullHandler())  # or the last resort would print

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
                self._before = [logger.propagate for logger in self._loggers]
                for logger in self._loggers:
                    logger.propagate = False

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._caught is not None:
                self._caught.__exit__(None, None, None)
                for logger, before in zip(self._loggers, self._before, strict=True):
                    logger.propagate = before


_quiet = _Quiet()
