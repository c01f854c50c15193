"""Reads DICOM files as grey pixels.

pydicom is imported when the first file is read. Only the data elements in :data:`ELEMENTS` are
read, which describe pixels. No message may quote a patient's data, so pydicom's own messages,
which can, are never passed on.
"""

from __future__ import annotations

import re
import zlib
from io import BytesIO
from typing import Any

import numpy as np

from .greys import Grey, Picture, has_few_greys, own_range, stretch, to_uint8
from .image_kinds import MAX_BYTES, check_bytes

SUFFIXES = (".dcm", ".dicom")
HEAD = 132  # bytes that tell whether a file is DICOM
INSTALL = 'pip install "pydicom>=3"'

ELEMENTS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth",
    "PixelData",
)  # fmt: skip
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601


class Refused(ValueError):
    """A DICOM file is not read; the message ends a sentence and has technical values only."""


def is_dicom(head: bytes, suffix: str) -> bool:
    """Whether a file is DICOM, by its first :data:`HEAD` bytes or by its name."""
    return head[128:] == b"DICM" or suffix.lower() in SUFFIXES


def decode_dicom(data: bytes, most: int, grey: Grey = "full") -> Picture:
    """Decode the picture of a DICOM file as a viewer first shows it, in grey.

    Stored values go through the modality LUT or ``slope * value + intercept``, then through the
    first VOI LUT, else the first window (PS3.3 C.11.2), with center c and width w

        LINEAR        (x - (c - 0.5)) / (w - 1) + 0.5
        LINEAR_EXACT  (x - c) / w + 0.5
        SIGMOID       1 / (1 + exp(-4 (x - c) / w))

    cut to [0, 1], and else from the least to the greatest value of the picture. MONOCHROME1 is then
    inverted. Padding is black and counts for neither. Colour becomes ITU-R 601 luma.

    White of a VOI LUT is the greatest value of the bits that its descriptor declares (PS3.3
    C.11.2.1.1). Where its entries need fewer or more bits, the descriptor is wrong, and it is that
    of the bits that they need.

    Args:
        data: the file.
        most: the most pixels that are decoded.
        grey: as for :func:`xraygan.data.images.read_grey`; another range than ``"full"`` replaces
            VOI LUT and window, and applies to values in units of the modality.

    Returns:
        ``(rows, columns)`` pixels, and keys of doubts.

    Raises:
        Refused: it is not a single picture of 8 or 16 bits whose pixels can be decoded here.
    """
    try:
        import pydicom.pixels  # noqa: F401
    except ImportError:
        raise Refused(f"a DICOM file, which pydicom 3 or later reads: {INSTALL}") from None
    try:
        return _decode(data, most, grey)
    except Refused:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise Refused(f"a DICOM file that is damaged or out of the ordinary: {kind}") from None


def _decode(data: bytes, most: int, grey: Grey) -> Picture:
    from pydicom.pixels import pixel_array

    image = _elements(data)
    _check_picture(image, most)
    if image.file_meta.TransferSyntaxUID.is_encapsulated:
        stored = _decompress(image)
    else:
        _check_length(image)
        stored = pixel_array(image, index=0)
    if stored.ndim == 3:
        luma = stored.astype(np.float32) @ LUMA
        if grey == "full":
            white = 2**image.BitsStored - 1
            return Picture(to_uint8(stretch(luma, 0, white)), "wide" if white > 255 else "range")
        span = own_range(*np.unique(luma, return_counts=True)) if grey == "image" else grey
        return Picture(to_uint8(stretch(luma, *span)))
    return _grey(stored, image, grey)


# -- the data elements -----------------------------------------------------------------------------


def _elements(data: bytes) -> Any:
    """The data elements in :data:`ELEMENTS`, and the transfer syntax of the file."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset

    if not is_dicom(data[:HEAD], ""):
        raise Refused("named as a DICOM file, but DICM does not stand at its byte 128")
    # Read from memory: a false length in the file then allocates nothing.
    stream = BytesIO(data)
    stream.seek(HEAD)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = meta.get("TransferSyntaxUID")
    if getattr(syntax, "type", "") != "Transfer Syntax":
        raise Refused("a DICOM file whose transfer syntax is missing or unknown")
    if syntax.is_deflated:
        stream = BytesIO(_inflate(stream.read()))
    tags: list[Any] = [tag_for_keyword(keyword) for keyword in ELEMENTS]
    image = read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=tags)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    return image


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, MAX_BYTES)
    if not inflater.eof:
        more = f"it inflates to more than {MAX_BYTES:,} bytes"
        raise Refused(more if inflater.unconsumed_tail else "its deflated data is cut short")
    return inflated


def _check_picture(image: Any, most: int) -> None:
    """Refuse a file that is no single picture of a known kind, before memory for it is allocated.

    Raises:
        Refused: it says why.
    """
    if "PixelData" not in image:
        raise Refused("a DICOM file without a picture: it has no Pixel Data")
    rows, columns = _integer(image, "Rows"), _integer(image, "Columns")
    if not 0 < rows * columns <= most:
        raise Refused(f"{columns} x {rows} pixels, and 1 to {most:,} are read")
    frames = int(image.get("NumberOfFrames") or 1)
    if frames != 1:
        raise Refused(f"{frames} frames; save the one that counts as a file of its own")
    photometric = image.get("PhotometricInterpretation")
    if photometric not in MONOCHROME + COLOUR:
        raise Refused(f"its Photometric Interpretation is none of {', '.join(MONOCHROME + COLOUR)}")
    if _integer(image, "SamplesPerPixel") != (1 if photometric in MONOCHROME else 3):
        raise Refused("its Samples per Pixel do not fit its Photometric Interpretation")
    allocated, stored = _integer(image, "BitsAllocated"), _integer(image, "BitsStored")
    if allocated not in (8, 16) or not 0 < stored <= allocated:
        raise Refused(f"{stored} bits stored in {allocated}; 8 or 16 are read")
    try:
        check_bytes((columns, rows), image.SamplesPerPixel * allocated // 8)
    except ValueError as error:
        raise Refused(str(error)) from None
    if image.get("HighBit", stored - 1) != stored - 1:
        raise Refused("its High Bit is not one less than its Bits Stored")


def _integer(image: Any, keyword: str) -> int:
    value = image.get(keyword)
    if not isinstance(value, int):
        raise Refused(f"a DICOM file without a whole number as its {keyword}")
    return int(value)


def _check_length(image: Any) -> None:
    count = image.Rows * image.Columns * image.SamplesPerPixel * image.BitsAllocated // 8
    if image.PhotometricInterpretation == "YBR_FULL_422":
        count = count // 3 * 2
    held = len(image.PixelData)
    if held < count:
        raise Refused(f"its Pixel Data is cut short: {held:,} of {count:,} bytes")
    if held >= 2 * count:
        raise Refused(f"its Pixel Data has {held:,} bytes, and one frame has {count:,}")


# -- compressed pixels -----------------------------------------------------------------------------


def _decompress(image: Any) -> np.ndarray:
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import RLELossless

    syntax = image.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refused(f"compressed as {syntax.name}, which is not read") from None
    packages = _packages(decoder.missing_dependencies)
    if not decoder.is_available:
        raise Refused(f"compressed as {syntax.name}, which needs another package: {packages}")
    if len(image.PixelData) > 2 * image.Rows * image.Columns * image.SamplesPerPixel * 2 + 65536:
        raise Refused("its Pixel Data is longer compressed than it would be uncompressed")
    if syntax != RLELossless:
        # Decoders allocate a picture of the size in the code stream, so that must be right.
        size = _coded_size(get_frame(image.PixelData, 0, number_of_frames=1))
        if size != (image.Rows, image.Columns, image.SamplesPerPixel):
            raise Refused("its compressed pixels are damaged, or not as many as Rows x Columns")
    try:
        return pixel_array(image, index=0)
    except Exception as error:
        more = f"; another decoder may: {packages}" if packages else ""
        kind = type(error).__name__
        raise Refused(f"compressed as {syntax.name}, and not decoded ({kind}){more}") from None


def _packages(missing: list[str]) -> str:
    """``pip install ...`` for the packages that a decoder needs, from pydicom's sentences."""
    sentences = [text for text in missing if text.startswith("pylibjpeg")]
    names = re.findall(r"(pylibjpeg[\w-]*)>=", sentences[0]) if sentences else []
    return f"pip install {' '.join(dict.fromkeys(names))}" if names else ""


def _coded_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and samples a pixel of the code stream of a JPEG, JPEG-LS or JPEG 2000."""
    if (at := stream[:4096].find(b"\xff\x4f\xff\x51")) >= 0:  # JPEG 2000: SOC, SIZ
        x, y, x0, y0 = (int.from_bytes(stream[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
        return y - y0, x - x0, int.from_bytes(stream[at + 40 : at + 42], "big")
    at = 2
    while stream[at : at + 1] == b"\xff":
        kind = stream[at + 1]
        if kind == 0xFF:  # fill
            at += 1
            continue
        if (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)) or kind == 0xF7:  # a frame
            rows, columns = (int.from_bytes(stream[at + i : at + i + 2], "big") for i in (5, 7))
            return rows, columns, stream[at + 9]
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


# -- stored values to grey -------------------------------------------------------------------------


def _grey(stored: np.ndarray, image: Any, chosen: Grey) -> Picture:
    """Stored values as greys.

    All steps from a stored value to a grey depend on the value alone, so they are computed once for
    each value between the extremes, as a lookup table, and not for each pixel.
    """
    low, high = int(stored.min()), int(stored.max())
    levels = np.arange(low, high + 1)
    index = stored.astype(np.int32) - low
    padding = _is_padding(levels, image)
    counts = np.bincount(index.ravel(), minlength=len(levels)) * ~padding
    if not counts.any():
        raise Refused("every pixel of it is padding")
    values = _modality(levels, image)
    if not np.isfinite(values).all():
        raise Refused("its rescale slope or intercept is no number")
    suspect, doubts = "range", set[str]()
    if chosen == "full":
        grey, suspect, doubts = _apply_window(values, counts > 0, image)
    else:
        span = own_range(values, counts) if chosen == "image" else chosen
        grey = stretch(values, *span)
    if has_few_greys(grey, counts):
        doubts.add(suspect)
    if image.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    table = to_uint8(grey)
    table[padding] = 0
    return Picture(table[index], "", doubts)


def _apply_window(
    values: np.ndarray, counted: np.ndarray, image: Any
) -> tuple[np.ndarray, str, set[str]]:
    """Greys in [0, 1] by the first VOI LUT, else the first window, else the range of the values.

    Args:
        counted: which values occur in the picture.

    Returns:
        The greys, the key of the likely reason if they are few, and the keys of other doubts.
    """
    suspect, doubts = "window", set[str]()
    if image.get("VOILUTSequence"):
        entries, declared, needed = _look_up(image.VOILUTSequence[0], values, image)
        grey = entries / (2.0**needed - 1)
        doubts = {"lut"} if needed != declared else set()
    elif (windowed := _windowed(values, image)) is not None:
        grey = windowed
    else:
        bottom, top = float(values[counted].min()), float(values[counted].max())
        grey, suspect = stretch(values, bottom, top), "outliers" if bottom < top else "range"
    if not np.isfinite(grey).all():
        raise Refused("its window is no number")
    return grey.clip(0, 1), suspect, doubts


def _is_padding(levels: np.ndarray, image: Any) -> np.ndarray:
    ends = [image.get("PixelPaddingValue"), image.get("PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(len(levels), dtype=bool)
    # Some files write a negative value as an unsigned one.
    least = -(2 ** (image.BitsAllocated - 1)) if image.get("PixelRepresentation") else 0
    limits = [(int(e) - least) % 2**image.BitsAllocated + least for e in ends if e is not None]
    return (levels >= min(limits)) & (levels <= max(limits))


def _modality(levels: np.ndarray, image: Any) -> np.ndarray:
    """Levels in units of the modality, float (PS3.3 C.11.1)."""
    if image.get("ModalityLUTSequence"):
        return _look_up(image.ModalityLUTSequence[0], levels, image)[0].astype(float)
    slope = _first_number(image.get("RescaleSlope"))
    intercept = _first_number(image.get("RescaleIntercept"))
    return levels * (1.0 if slope is None else slope) + (intercept or 0.0)


def _windowed(values: np.ndarray, image: Any) -> np.ndarray | None:
    """Values in [0, 1] by the window (PS3.3 C.11.2); None if there is none."""
    center = _first_number(image.get("WindowCenter"))
    width = _first_number(image.get("WindowWidth"))
    function = image.get("VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Refused("its VOI LUT Function is none of LINEAR, LINEAR_EXACT, SIGMOID")
    if center is None or width is None or width <= 0:
        return None
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
        if width <= 0:
            return (values > center).astype(float)
    return (values - center) / width + 0.5


def _look_up(item: Any, values: np.ndarray, image: Any) -> tuple[np.ndarray, int, int]:
    """A LUT's entries for values, the bits that they are declared to have, and those they need."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count % 65536 or 65536
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if image.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")
    else:
        entries = np.atleast_1d(np.array(data, dtype=np.int64)) & 0xFFFF
    if len(entries) < count or not 8 <= bits <= 16:
        raise Refused(f"its lookup table holds {len(entries)} of {count} entries of {bits} bits")
    table = entries[:count]
    needed = max(8, int(table.max()).bit_length())
    return table[np.clip(np.floor(values) - first, 0, count - 1).astype(np.int64)], bits, needed


def _first_number(value: Any) -> float | None:
    """The first of a decimal string's values; None where there is none."""
    if isinstance(value, str) or value is None:
        return float(value) if value else None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None
