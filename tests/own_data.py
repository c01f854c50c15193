"""A folder of images with a table, a run over it, and changes to either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import gan
from PIL import Image
from rich.console import Console

from xraygan.recipe.loading import Recipe
from xraygan.utils.progress import Display

SILENT = Display(Console(quiet=True))


CLASSES = ["Edema", "Mass"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def environment(place: Path) -> dict[str, Any]:
    return json.loads((place / "environment.json").read_text())


def own_data(folder: Path, count: int = 40) -> Path:
    """A folder of images with a table, each class in turn."""
    (folder / "images").mkdir(parents=True)
    source = np.random.default_rng(0)
    lines = ["path,label,patient,split"]
    for i in range(count):
        name = f"images/{i:02d}.png"
        Image.fromarray(source.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / name)
        split = "test" if i % 4 == 0 else "train"
        lines.append(f"{name},{CLASSES[i // 2 % 2]},p{i},{split}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder


def csv(root: Path, **words: Any) -> Recipe:
    """A GAN on a folder of images."""
    data = {"plugin": "csv", "root": str(root), "image_size": 32, "classes": CLASSES}
    return gan(
        run={"steps": 6, "batch_size": 4, "save_every": 2, "log_every": 1} | words, data=data
    )


def edit(old: str, new: str) -> Callable[[Path], None]:
    """Changes a row of the table."""

    def change(root: Path) -> None:
        table = root / "images.csv"
        assert old in table.read_text()
        table.write_text(table.read_text().replace(old, new))

    return change
