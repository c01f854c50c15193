"""Coverage-guided fuzzing of what reads files that may come from anywhere.

    pip install atheris
    mkdir found && python tests/fuzz/fuzz.py recipe found recipes -max_total_time=600

The targets are ``recipe``, ``manifest`` and ``table``; what follows goes to libFuzzer: a
folder for what it finds of interest, folders to begin with, options. A finding is an exception
other than UserError, or a timeout; libFuzzer writes it to a file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["xraygan", "xraygan_chestxray14", "tomllib"]):
    from xraygan_chestxray14.dataset import ChestXray14

    from xraygan import UserError, checkpoint, recipe
    from xraygan.rundir import RunDirectory

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
    list(RunDirectory(HERE / "run").read_metrics())


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


TABLES = {
    "Data_Entry_2017_v2020.csv": b"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,"
    b"Patient Gender,View Position\n00000001_000.png,Mass|Edema,0,1,58,M,PA\n",
    "train_val_list.txt": b"00000001_000.png\n",
    "test_list.txt": b"",
}
TARGETS = {"recipe": read_recipe, "manifest": read_manifest, "table": read_table}


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
