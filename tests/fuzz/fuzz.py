"""Coverage-guided fuzzing of what reads files that may come from anywhere.

    pip install atheris
    mkdir found && python tests/fuzz/fuzz.py recipe found recipes -max_total_time=600

The targets are ``recipe``, ``manifest``, ``table`` (ChestX-ray14's), ``csv`` and ``dicom``; what
follows goes to libFuzzer: a folder for what it finds of interest, folders to begin with, options. A
finding is an exception other than UserError, or a timeout; libFuzzer writes it to a file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atheris

INSTRUMENTED = ["xraygan", "xraygan_chestxray14", "xraygan_csv", "tomllib", "pydicom"]
with atheris.instrument_imports(include=INSTRUMENTED):
    import pydicom.pixels  # noqa: F401
    from xraygan_chestxray14.dataset import ChestXray14
    from xraygan_csv.dataset import Csv

    from xraygan import UserError
    from xraygan.data.images import read_grey
    from xraygan.data.index import read_index
    from xraygan.recipe import loading as recipe
    from xraygan.rundir import checkpoint
    from xraygan.rundir.directory import RunDirectory

HERE = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def read_recipe(content: bytes) -> None:
    path = HERE / "recipe.toml"
    path.write_bytes(content)
    recipe.load(path)


def read_manifest(content: bytes) -> None:
    folder = HERE / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(content)
    (HERE / "run" / "metrics.jsonl").write_bytes(content)
    checkpoint.latest(folder.parent)
    (folder.parent / "best").write_bytes(content)
    with suppress(UserError):
        checkpoint.find(folder.parent, "best")
    with suppress(UserError):
        RunDirectory(HERE / "run").read_metrics()


def read_table(content: bytes) -> None:
    """The first line chooses which file of the layout the rest is."""
    names = ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt")
    for name in names:
        (HERE / name).write_bytes(TABLES[name])
    (HERE / "images").mkdir(exist_ok=True)
    (HERE / "images" / "00000001_000.png").touch()
    first, _, rest = content.partition(b"\n")
    (HERE / names[len(first) % 3]).write_bytes(rest)
    ChestXray14(HERE).index()


def read_csv(content: bytes) -> None:
    """The first line chooses the options, the rest is the table."""
    first, _, rest = content.partition(b"\n")
    (HERE / "images.csv").write_bytes(rest)
    (HERE / "image.png").touch()
    options: tuple[dict[str, Any], ...] = (
        {},
        {"label": "", "findings": ("Mass", "Edema")},
        {"split": "", "patient": "", "delimiter": ";"},
        {"findings": ("Mass", "Edema"), "separator": "+"},
    )
    data = Csv(HERE, **options[len(first) % len(options)])
    part = SimpleNamespace(name="csv", origin="xraygan", distribution="xraygan")
    read_index(SimpleNamespace(part=part), data)  # type: ignore[arg-type]


def read_dicom(content: bytes) -> None:
    path = HERE / "image.dcm"
    path.write_bytes(content)
    pixels = read_grey(path, 16)
    assert pixels.shape == (16, 16)


TABLES = {
    "Data_Entry_2017_v2020.csv": b"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,"
    b"Patient Gender,View Position\n00000001_000.png,Mass|Edema,0,1,58,M,PA\n",
    "train_val_list.txt": b"00000001_000.png\n",
    "test_list.txt": b"",
}
TARGETS = {
    "recipe": read_recipe,
    "manifest": read_manifest,
    "table": read_table,
    "csv": read_csv,
    "dicom": read_dicom,
}


def guarded(read: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def target(content: bytes) -> None:
        try:
            read(content)
        except UserError as error:
            assert str(error)

    return target


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} [libFuzzer's options]")
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, guarded(TARGETS[name]))
    atheris.Fuzz()
