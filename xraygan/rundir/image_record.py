"""Which images a run was trained on, image by image, and in what others differ from them.

``images.safetensors`` holds digests alone: no names of files and no patients.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from xraygan.data.file_digests import content_identity
from xraygan.data.split_names import SPLIT_NAMES, SPLITS
from xraygan.errors import UserError
from xraygan.utils.atomic_files import write_json, write_together

from .directory import RunDirectory, flat
from .provenance import read_environment, trained_on

if TYPE_CHECKING:
    from xraygan.data.datamodule import ImageData

#: the arrays of the file; each is ``(N,)``, in the order of ``path``
FIELDS = {
    "path": np.int64, "content": np.int64, "labels": np.int32, "patient": np.int32,
    "split": np.uint8,
}  # fmt: skip
LEARNED, MEASURED = ("train", "unlabelled"), ("val", "test")


@dataclass(frozen=True)
class ImageRecord:
    """Digests of images, in the order of those of their paths.

    Attributes:
        path: ``(N,)`` int64, of the path below the data's folder.
        content: ``(N,)`` int64, of what the file holds.
        labels: ``(N,)`` int32, of the label vector.
        patient: ``(N,)`` int32, the same for images of one patient; it is made of their paths, and
            not of who the patient is.
        split: ``(N,)`` uint8, the place of its split in :data:`xraygan.data.split_names.SPLITS`.
    """

    path: np.ndarray
    content: np.ndarray
    labels: np.ndarray
    patient: np.ndarray
    split: np.ndarray

    @classmethod
    def of(cls, data: ImageData) -> tuple[ImageRecord, list[str]]:
        """The record of images, and their paths in its order."""
        paths = [path for split in data.splits.values() for path in split.paths]
        splits = data.splits.items()
        codes = np.concatenate([np.full(len(s), SPLITS.index(n), np.uint8) for n, s in splits])
        rows = np.concatenate([split.images.rows.numpy() for split in data.splits.values()])
        matrix = np.concatenate([split.label_matrix for split in data.splits.values()])
        kinds, kind = np.unique(matrix, axis=0, return_inverse=True)
        labels = np.array([_digest(row.tobytes(), 4) for row in kinds], np.int32)[kind.ravel()]
        patients = np.concatenate([split.patients for split in data.splits.values()])
        digests = np.array([_digest(path.encode()) for path in paths], dtype=np.int64)
        contents = [_digest(content_identity(data.store.contents[row]).encode()) for row in rows]
        order = np.argsort(digests, kind="stable")
        groups = _first(np.unique(patients[order], return_inverse=True)[1])
        found = cls(
            digests[order], np.array(contents, dtype=np.int64)[order], labels[order],
            digests[order][groups].astype(np.int32), codes[order],
        )  # fmt: skip
        return found, [paths[i] for i in order]

    @classmethod
    def read(cls, place: RunDirectory) -> ImageRecord | None:
        """What a run has recorded; None if it has not, or of other images than its environment.

        Raises:
            UserError: the file is damaged.
        """
        try:
            if _fingerprint(place) != trained_on(place):
                return None
            with safe_open(place.images, "np") as file:
                found = {name: file.get_tensor(name) for name in FIELDS}
            lengths = {len(array) for array in found.values()}
            kinds = {name: array.dtype.type for name, array in found.items()}
            if len(lengths) != 1 or kinds != FIELDS or any(a.ndim != 1 for a in found.values()):
                raise ValueError("its arrays are not those of a record")
            if (found["path"][1:] < found["path"][:-1]).any() or (
                found["split"] >= len(SPLITS)
            ).any():
                raise ValueError("its digests are out of order")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"{place.images}: damaged ({error}). It says which images the run began with; put "
                "it back as it was, or remove it to go on without comparing image by image"
            ) from None
        return cls(**found)

    def places_of(self, other: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        """Which images of another record this one has under the same paths: the rows in this one
        and in the other, alike ``(M,)``."""
        at = np.searchsorted(self.path, other.path).clip(max=max(len(self.path) - 1, 0))
        known = self.path[at] == other.path if len(self.path) else np.zeros(len(at), bool)
        return at[known], np.flatnonzero(known)

    def in_splits(self, names: Iterable[str]) -> np.ndarray:
        """``(N,)`` bool."""
        return np.isin(self.split, [SPLITS.index(name) for name in names])


def write_record(place: RunDirectory, data: ImageData) -> None:
    """Write ``images.safetensors`` unless it is there and of these images.

    Raises:
        OSError: it cannot be written.
    """
    try:
        if _fingerprint(place) == data.fingerprint:
            return
    except (OSError, SafetensorError):
        pass
    record, _ = ImageRecord.of(data)
    arrays = {name: getattr(record, name) for name in FIELDS}
    write_together({place.images: save(arrays, {"fingerprint": data.fingerprint})})


def data_differences(
    place: RunDirectory, environment: Mapping[str, Any], data: ImageData
) -> list[str]:
    """In what images differ from those that a run began with, in lines.

    Args:
        environment: the run's ``environment.json``.

    Returns:
        Nothing if they are the same, or if it does not say which images they were.
    """
    then, now = environment.get("dataset", {}), data.summary()
    keys = [key for key in ("fingerprint", "metadata_fingerprint") if key in then]
    if all(then[key] == now.get(key) for key in keys):
        return []
    record = ImageRecord.read(place)
    lines = [] if record is None else _one_by_one(record, *ImageRecord.of(data))
    lines += _counts(then, now)
    if lines:
        return lines
    if then.get("fingerprint") == now["fingerprint"]:
        return ["age, sex or view of some images"]
    if record is not None:
        return ["the same images of the same labels and splits; patients have other names, or the "
                "images another order"]  # fmt: skip
    return ["as many images of each class; pixels, paths, labels or splits of some of them differ"]


def trained_on_measured(
    record: ImageRecord, now: ImageRecord, paths: list[str]
) -> tuple[list[str], int]:
    """Which of the images that would be measured a run was trained on.

    An image is the same if its content is, whatever its name. One that the run had among its
    measured images already is none, though a training image may have the same content.

    Returns:
        Their paths, and how many images would be measured.
    """
    measured = now.in_splits(MEASURED)
    seen = measured & np.isin(now.content, record.content[record.in_splits(LEARNED)])
    there, here = record.places_of(now)
    same = record.content[there] == now.content[here]
    seen[here[same & record.in_splits(MEASURED)[there]]] = False
    return [paths[i] for i in np.flatnonzero(seen)], int(measured.sum())


def note_use(place: RunDirectory, step: int, data: ImageData, differs: list[str]) -> None:
    """Note in ``environment.json`` that a run was measured on other data than it was trained on.

    Raises:
        OSError: it cannot be written.
    """
    if (environment := read_environment(place)) and differs:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "step": step,
            "fingerprint": data.fingerprint,
            "differs": differs,
        }
        used = [*environment.get("used", []), entry]
        write_json(place.environment, {**environment, "used": used})


def _one_by_one(then: ImageRecord, now: ImageRecord, paths: list[str]) -> list[str]:
    """What became of each image, counted, in lines."""
    there, here = then.places_of(now)
    lines = []

    def count(what: str, which: np.ndarray) -> None:
        if number := int(which.sum()):
            first = paths[here[np.flatnonzero(which)[0]]]
            lines.append(f"{what}: {number:,} ({first!r} the first)")

    count("images replaced under their names", then.content[there] != now.content[here])
    was, is_now = then.split[there], now.split[here]
    for a, b in sorted(set(zip(was.tolist(), is_now.tolist(), strict=True))):
        if a != b:
            moved = (was == a) & (is_now == b)
            count(f"{_name(a)} images that are {_name(b)} images now", moved)
    count("images with other labels", then.labels[there] != now.labels[here])
    groups = _first(then.patient[there]), _first(now.patient[here])
    count("images of other patients", groups[0] != groups[1])
    for record, known, what in ((then, there, "gone"), (now, here, "new")):
        rest = np.delete(record.split, known)
        for code in np.unique(rest):
            lines.append(f"{_name(code)} images that are {what}: {int((rest == code).sum()):,}")
    return lines


def _counts(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In which numbers of images, patients and classes two summaries differ."""
    lines = []
    for what in ("images", "patients", "classes"):
        was, is_now = dict(flat(then.get(what, {}))), dict(flat(now[what]))
        for key in dict.fromkeys((*was, *is_now)):
            if (a := was.get(key, 0)) != (b := is_now.get(key, 0)):
                split, _, name = key.partition(".")
                of = f"images of {name}" if name else what
                lines.append(f"{split} {of}: {a} there, {b} now")
    left_out = [len(found.get("skipped") or ()) for found in (then, now)]
    if left_out[0] != left_out[1]:
        lines.append(f"unreadable images left out: {left_out[0]} there, {left_out[1]} now")
    return lines


def _name(code: int) -> str:
    return SPLIT_NAMES[SPLITS[code]]


def _first(groups: np.ndarray) -> np.ndarray:
    """For each element, the place of the first one that is equal to it."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]


def _digest(content: bytes, size: int = 8) -> int:
    found = hashlib.blake2b(content, digest_size=size).digest()
    return int.from_bytes(found, "big", signed=True)


def _fingerprint(place: RunDirectory) -> str | None:
    """The fingerprint of the data that a run's record is of.

    Raises:
        OSError: there is none, or it cannot be read.
        SafetensorError: it is damaged.
    """
    with safe_open(place.images, "np") as file:
        return (file.metadata() or {}).get("fingerprint")
