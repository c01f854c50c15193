"""What the files of a run directory hold, for those who read a run and do not run it."""

from __future__ import annotations

import base64
import io
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from .errors import UserError

FRAMES = 12  # sample grids that are embedded; with all of a long run's a page grows too heavy
WIDEST = 1400  # pixels of an embedded picture; more than a page can show

Object = dict[str, Any]
Predictions = list[tuple[str, np.ndarray, np.ndarray]]
Series = dict[str, tuple[np.ndarray, np.ndarray]]
Read = TypeVar("Read")


class RunFiles:
    """A run directory, read whole; empty where a file is absent.

    Attributes:
        recipe: the tables of ``recipe.toml``; ``recipe_text`` is the file itself.
        lines: the objects of ``metrics.jsonl``, in the order of their steps.
        predictions: each class of ``predictions.csv`` with its labels and its probabilities,
            ``(N,)`` each; None without the file.
        real: a grid of real images as a data URI, None if there is none.
        samples: grids of generated images as data URIs, by step; ``grids`` is how many there are
            on disk, which may be more.
        warnings: the lines of ``run.log`` that warn; ``None`` without the file.
        missing: the files that are absent or could not be read.

    Raises:
        UserError: the directory holds no file of a run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.missing: list[str] = []
        no_recipe: tuple[str, Object] = ("", {})
        self.recipe_text, self.recipe = self._text("recipe.toml", _recipe, no_recipe)
        self.environment: Object = self._text("environment.json", _object, {})
        self.lines: list[Object] = self._text("metrics.jsonl", _objects, [])
        self.evaluation: Object = self._text("evaluation.json", _object, {})
        self.warnings = self._text("run.log", _warnings, None)
        self.predictions: Predictions | None = None
        if self.has("classifier"):
            self.predictions = self._text("predictions.csv", _predictions, None)
        self.real: str | None = None
        self.samples: dict[int, str] = {}
        self.grids = 0
        if self.has("generator"):
            self._read_samples()
        if not (self.recipe_text or self.environment or self.lines or self.evaluation):
            raise UserError(f"{directory}: not a run directory (it has no {self.missing[0]})")

    @property
    def name(self) -> str:
        """The run's name in its recipe, else the directory's."""
        return self.recipe.get("run", {}).get("name") or self.directory.resolve().name

    @property
    def seconds(self) -> float:
        """How long the logged steps took; the clock starts over when a run is resumed."""
        total = before = 0.0
        for line in self.lines:
            now = line.get("seconds", before)
            total += now - before if now >= before else now
            before = now
        return total

    def has(self, network: str) -> bool:
        """Whether the run has a network, as far as its recipe tells."""
        return not self.recipe or network in self.recipe

    def series(self, pick: Callable[[Object], Mapping[str, Any] | None]) -> Series:
        """Named values over training: name -> steps and values ``(N,)``, NaN where there is none.

        Args:
            pick: takes the values out of a line, None where it holds no such values.
        """
        picked = [(line["step"], found) for line in self.lines if (found := pick(line)) is not None]
        steps = np.array([step for step, _ in picked], dtype=float)
        names = dict.fromkeys(name for _, found in picked for name in found)
        # As floats, null becomes NaN.
        return {
            name: (steps, np.array([found.get(name) for _, found in picked], dtype=float))
            for name in names
        }

    def _read_samples(self) -> None:
        self.real = self._file("samples/real.png", _data_uri, None)
        found = {
            int(path.stem.removeprefix("step-")): f"samples/{path.name}"
            for path in sorted((self.directory / "samples").glob("step-*.png"))
            if path.stem.removeprefix("step-").isdecimal()
        }
        if not found:
            self.missing.append("samples/step-*.png")
        self.grids = len(found)
        spread = np.linspace(0, len(found) - 1, min(FRAMES, len(found))).round()
        for step in np.array(list(found))[spread.astype(int)].tolist() if found else []:
            if (uri := self._file(found[step], _data_uri, None)) is not None:
                self.samples[step] = uri

    def _text(self, name: str, parse: Callable[[str], Read], absent: Read) -> Read:
        return self._file(name, lambda path: parse(path.read_text(encoding="utf-8")), absent)

    def _file(self, name: str, read: Callable[[Path], Read], absent: Read) -> Read:
        try:
            return read(self.directory / name)
        except FileNotFoundError:
            self.missing.append(name)
        except (OSError, ValueError) as error:  # malformed JSON, TOML, CSV and UTF-8 among them
            self.missing.append(f"{name} (cannot be read: {error})")
        return absent


def _predictions(text: str) -> Predictions:
    table = pd.read_csv(io.StringIO(text))
    names = [column[6:] for column in table.columns if column.startswith("label:")]
    try:
        return [
            (name, table[f"label:{name}"].to_numpy(int), table[f"p:{name}"].to_numpy(float))
            for name in names
        ]
    except KeyError as error:
        raise ValueError(f"no column {error}") from None


def _recipe(text: str) -> tuple[str, Object]:
    return text, tomllib.loads(text)


def _object(text: str) -> Object:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _objects(text: str) -> list[Object]:
    """One object a line; a line that a crash cut short is left out."""
    found = []
    for line in text.splitlines():
        try:
            found.append(_object(line))
        except ValueError:
            continue
    return [line for line in found if "step" in line]


def _warnings(text: str) -> list[str] | None:
    return [line for line in text.splitlines() if "WARNING" in line]


def _data_uri(path: Path) -> str:
    """A picture as a data URI, scaled down where it is too wide."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((WIDEST, image.height), Image.Resampling.LANCZOS)
        image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
