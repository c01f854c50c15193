"""The record of a run's images, and the differences of other images from it.

``images.safetensors`` holds only digests: no file names and no patients.
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
from xraygan.data.split_names import LEARNED, MEASURED, SPLIT_NAMES, SPLITS
from xraygan.errors import UserError
from xraygan.utils.atomic_files import write_json, write_together
from xraygan.utils.nested import flatten_tables

from .directory import RunDirectory
from .provenance import read_environment, trained_on

if TYPE_CHECKING:
    from xraygan.data.datamodule import ImageData

#: the arrays of the file; each is ``(N,)``, in the order of ``path``
FIELDS = {
    "path": np.int64, "content": np.int64, "labels": np.int32, "patient": np.int32,
    "split": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class ImageRecord:
    """Digests of images, sorted by the digests of their paths.

    Attributes:
        path: ``(N,)`` int64, digest of the path below the data's folder.
        content: ``(N,)`` int64, digest of the file's content.
        labels: ``(N,)`` int32, digest of the label vector.
        patient: ``(N,)`` int32, equal for images of one patient; it is computed from their paths,
            not from the patient's identity.
        split: ``(N,)`` uint8, index of its split in :data:`xraygan.data.split_names.SPLITS`.
    """

    path: np.ndarray
    content: np.ndarray
    labels: np.ndarray
    patient: np.ndarray
    split: np.ndarray

    @classmethod
    def of(cls, data: ImageData) -> tuple[ImageRecord, list[str]]:
        """The record of the images of a data set, and their paths in its order."""
        paths = [path for split in data.splits.values() for path in split.paths]
        splits = data.splits.items()
        codes = np.concatenate([np.full(len(s), SPLITS.index(n), np.uint8) for n, s in splits])
        rows = np.concatenate([split.images.rows.numpy() for split in data.splits.values()])
        matrix = np.concatenate([split.label_matrix for split in data.splits.values()])
        kinds, kind = np.unique(matrix, axis=0, return_inverse=True)
        labels = np.array([_digest(row.tobytes(), 4) for row in kinds], np.int32)[kind.ravel()]
        patients = np.concatenate([split.patients for split in data.splits.values()])
        digests = np.array([_digest(path.encode()) for path in paths], dtype=np.int64)
        contents = content_digests([data.store.contents[row] for row in rows])
        order = np.argsort(digests, kind="stable")
        groups = _first_equal(np.unique(patients[order], return_inverse=True)[1])
        record = cls(
            digests[order], contents[order], labels[order],
            digests[order][groups].astype(np.int32), codes[order],
        )  # fmt: skip
        return record, [paths[i] for i in order]

    @classmethod
    def read(cls, run_dir: RunDirectory) -> ImageRecord | None:
        """The record of a run; None if it has none, or one of other images than its environment.

        Raises:
            UserError: the file is damaged.
        """
        try:
            if _fingerprint(run_dir) != trained_on(run_dir):
                return None
            with safe_open(run_dir.images, "np") as file:
                arrays = {name: file.get_tensor(name) for name in FIELDS}
            lengths = {len(array) for array in arrays.values()}
            kinds = {name: array.dtype.type for name, array in arrays.items()}
            if len(lengths) != 1 or kinds != FIELDS or any(a.ndim != 1 for a in arrays.values()):
                raise ValueError("its arrays are not those of an image record")
            if (arrays["path"][1:] < arrays["path"][:-1]).any() or (
                arrays["split"] >= len(SPLITS)
            ).any():
                raise ValueError("its digests are out of order")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"{run_dir.images}: damaged ({error}). It records the images that the run started "
                "with; restore the file, or remove it to continue without comparing single images"
            ) from None
        return cls(**arrays)

    def rows_of(self, other: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        """The rows of images that both records have under the same paths: in this record and in the
        other one, ``(M,)`` each."""
        rows = np.searchsorted(self.path, other.path).clip(max=max(len(self.path) - 1, 0))
        known = self.path[rows] == other.path if len(self.path) else np.zeros(len(rows), bool)
        return rows[known], np.flatnonzero(known)

    def in_splits(self, names: Iterable[str]) -> np.ndarray:
        """Whether each image is in one of the splits, ``(N,)`` bool."""
        return np.isin(self.split, [SPLITS.index(name) for name in names])


def content_digests(identities: Iterable[str]) -> np.ndarray:
    """The digests of images' contents ``(N,)`` int64, from the identities of their files."""
    digests = [_digest(content_identity(identity).encode()) for identity in identities]
    return np.array(digests, dtype=np.int64)


def write_record(run_dir: RunDirectory, data: ImageData) -> None:
    """Write ``images.safetensors``, unless it records these images already.

    Raises:
        OSError: it cannot be written.
    """
    try:
        if _fingerprint(run_dir) == data.fingerprint:
            return
    except (OSError, SafetensorError):
        pass
    record, _ = ImageRecord.of(data)
    arrays = {name: getattr(record, name) for name in FIELDS}
    write_together({run_dir.images: save(arrays, {"fingerprint": data.fingerprint})})


def data_differences(
    run_dir: RunDirectory, environment: Mapping[str, Any], data: ImageData
) -> list[str]:
    """The differences of a data set from the images that a run started with, one a line.

    Args:
        environment: the run's ``environment.json``.

    Returns:
        No lines if the images are the same, or if the environment does not identify them.
    """
    before, after = environment.get("dataset", {}), data.summary()
    keys = [key for key in ("fingerprint", "metadata_fingerprint") if key in before]
    lines = []
    # Without them in ``after``: a finished run is measured, for which they are not needed.
    if "generated" in after and before.get("generated") != after["generated"]:
        lines.append("the generated images to learn from (data.generated)")
    if all(before[key] == after.get(key) for key in keys):
        return lines
    record = ImageRecord.read(run_dir)
    lines += [] if record is None else _compare_records(record, *ImageRecord.of(data))
    lines += _compare_counts(before, after)
    if lines:
        return lines
    if before.get("fingerprint") == after["fingerprint"]:
        return ["age, sex or view of some images"]
    if record is not None:
        return ["the images, labels and splits are the same; the names of patients or the order "
                "of the images differ"]  # fmt: skip
    return ["the numbers of images are the same; pixels, paths, labels or splits of some differ"]


def trained_on_measured(
    record: ImageRecord, current: ImageRecord, paths: list[str]
) -> tuple[list[str], int]:
    """The images to be measured that a run was trained on.

    Images are the same if their contents are, whatever their names. An image that the run already
    measured does not count, even if a training image has the same content.

    Returns:
        Their paths, and the number of images to be measured.
    """
    measured = current.in_splits(MEASURED)
    trained = measured & np.isin(current.content, record.content[record.in_splits(LEARNED)])
    old_rows, new_rows = record.rows_of(current)
    same = record.content[old_rows] == current.content[new_rows]
    trained[new_rows[same & record.in_splits(MEASURED)[old_rows]]] = False
    return [paths[i] for i in np.flatnonzero(trained)], int(measured.sum())


def note_use(run_dir: RunDirectory, step: int, data: ImageData, differs: list[str]) -> None:
    """Record in ``environment.json`` that a run was measured on other data than its training's.

    Raises:
        OSError: it cannot be written.
    """
    if (environment := read_environment(run_dir)) and differs:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "step": step,
            "fingerprint": data.fingerprint,
            "differs": differs,
        }
        used = [*environment.get("used", []), entry]
        write_json(run_dir.environment, {**environment, "used": used})


def _compare_records(before: ImageRecord, after: ImageRecord, paths: list[str]) -> list[str]:
    """How many images were replaced, moved between splits, relabelled, removed or added."""
    old_rows, new_rows = before.rows_of(after)
    lines = []

    def count(change: str, changed: np.ndarray) -> None:
        if number := int(changed.sum()):
            first = paths[new_rows[np.flatnonzero(changed)[0]]]
            lines.append(f"{change}: {number:,} ({first!r} the first)")

    replaced = before.content[old_rows] != after.content[new_rows]
    count("images replaced under their names", replaced)
    old_splits, new_splits = before.split[old_rows], after.split[new_rows]
    for old, new in sorted(set(zip(old_splits.tolist(), new_splits.tolist(), strict=True))):
        if old != new:
            moved = (old_splits == old) & (new_splits == new)
            count(f"{_split_name(old)} images that are {_split_name(new)} images now", moved)
    count("images with other labels", before.labels[old_rows] != after.labels[new_rows])
    groups = _first_equal(before.patient[old_rows]), _first_equal(after.patient[new_rows])
    count("images of other patients", groups[0] != groups[1])
    for record, shared, state in ((before, old_rows, "gone"), (after, new_rows, "new")):
        splits = np.delete(record.split, shared)
        for code in np.unique(splits):
            number = int((splits == code).sum())
            lines.append(f"{_split_name(code)} images that are {state}: {number:,}")
    return lines


def _compare_counts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The numbers of images, patients and classes in which two summaries differ."""
    lines = []
    for kind in ("images", "patients", "classes"):
        old_counts, new_counts = flatten_tables(before.get(kind, {})), flatten_tables(after[kind])
        for key in dict.fromkeys((*old_counts, *new_counts)):
            if (old := old_counts.get(key, 0)) != (new := new_counts.get(key, 0)):
                split, _, name = key.partition(".")
                counted = f"images of {name}" if name else kind
                lines.append(f"{split} {counted}: {old} there, {new} now")
    skipped = [len(summary.get("skipped") or ()) for summary in (before, after)]
    if skipped[0] != skipped[1]:
        lines.append(f"unreadable images left out: {skipped[0]} there, {skipped[1]} now")
    return lines


def _split_name(code: int) -> str:
    return SPLIT_NAMES[SPLITS[code]]


def _first_equal(groups: np.ndarray) -> np.ndarray:
    """For each element ``(N,)``, the index of the first element that is equal to it."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]


def _digest(content: bytes, size: int = 8) -> int:
    digest = hashlib.blake2b(content, digest_size=size).digest()
    return int.from_bytes(digest, "big", signed=True)


def _fingerprint(run_dir: RunDirectory) -> str | None:
    """The fingerprint of the data that a run's image record describes.

    Raises:
        OSError: there is no record, or it cannot be read.
        SafetensorError: it is damaged.
    """
    with safe_open(run_dir.images, "np") as file:
        return (file.metadata() or {}).get("fingerprint")
