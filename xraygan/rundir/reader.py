"""The content of a run directory, for reports, figures and tables."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.errors import UserError
from xraygan.utils.parsing import read_bytes, read_text

from . import file_readers
from .file_readers import LARGEST, Object, Predictions, Read

GAP = 2  # pixels between the images of a sample grid

#: the exceptions of malformed JSON, TOML, CSV, UTF-8 and PNG
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error,
          Image.DecompressionBombError)  # fmt: skip

Series = dict[str, tuple[np.ndarray, np.ndarray]]
Else = TypeVar("Else")


def _measured_on(split: str) -> Callable[[Object], Mapping[str, Any] | None]:
    """A function from a logged line to the values that it measured on a split.

    Lines of former versions name no split; their values are of the test images.
    """
    return lambda line: line.get("evaluation") if line.get("split", "test") == split else None


#: title -> the values of a logged line besides the terms
ALSO_LOGGED: dict[str, Callable[[Object], Mapping[str, Any] | None]] = {
    "Also recorded": lambda line: line.get("records"),
    "Measured during training, on validation images": _measured_on("val"),
    "Measured during training, on test images": _measured_on("test"),
}


class Lacking(Exception):
    """The run does not hold the requested data; the message says why, as the end of a sentence."""


class ByClass(NamedTuple):
    """Real and generated images ``(n, S, S)`` uint8 of each class that has any.

    Attributes:
        source: how the class of a generated image is known; see :meth:`RunFiles.classes_of`.
    """

    names: list[str]
    real: list[np.ndarray]
    generated: list[np.ndarray]
    source: str


class RunFiles:
    """All files of a run directory; a file that is absent leaves its attribute empty.

    Attributes:
        recipe: the tables of ``recipe.toml``; ``recipe_text`` is the file itself.
        lines: the objects of ``metrics.jsonl``, in the order of their steps.
        predictions: each class of ``predictions.csv`` with its labels and its probabilities,
            ``(N,)`` each; None without the file.
        real: the grid of real images; None without the file.
        grids: the files of the grids of generated images, by step.
        warnings: the warnings in ``run.log``; None without the file.
        missing: the files that are absent or could not be read.
        damaged: the files among them that exist and could not be read, and why.

    Raises:
        UserError: the directory holds no file of a run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._optional: dict[tuple[str, Callable[[str], Any]], Any] = {}
        self.missing: list[str] = []
        self.damaged: list[str] = []
        no_recipe: tuple[str, Object] = ("", {})
        self.recipe_text, self.recipe = self._text("recipe.toml", _recipe, no_recipe)
        self.environment: Object = self._text("environment.json", file_readers.environment, {})
        self.lines: list[Object] = self._text("metrics.jsonl", self._lines, [])
        self.evaluation: Object = self._text("evaluation.json", file_readers.evaluation, {})
        self.warnings = self._text("run.log", _warnings, None)
        self.predictions: Predictions | None = None
        if self.has("classifier"):
            self.predictions = self._text("predictions.csv", file_readers.predictions, None)
        self.real: Image.Image | None = None
        self.grids: dict[int, str] = {}
        if self.has("generator"):
            self.real = self._file("samples/real.png", _picture, None)
            self.grids = self._find_grids()
        if not (self.recipe_text or self.environment or self.lines or self.evaluation):
            raise UserError(f"{directory}: not a run directory (it has no {self.missing[0]})")

    @classmethod
    def open(cls, directory: Path) -> RunFiles:
        """Open a directory that the user named.

        Raises:
            UserError: there is no such directory, or it holds no file of a run.
        """
        if not directory.is_dir():
            raise UserError(f"{directory}: there is no such directory")
        return cls(directory)

    @property
    def name(self) -> str:
        """The run's name in its recipe, else the directory's."""
        return self.recipe.get("run", {}).get("name") or self.directory.resolve().name

    @property
    def kind(self) -> str:
        """The images of the evaluation and the predictions: ``"test"`` or ``"validation"``."""
        split = self.evaluation.get("protocol", {}).get("split") or "test"
        return SPLIT_NAMES.get(split, split)

    @property
    def seconds(self) -> float:
        """How long the logged steps took in seconds; the clock restarts when a run is resumed."""
        total = previous = 0.0
        for line in self.lines:
            seconds = line.get("seconds", previous)
            total += seconds - previous if seconds >= previous else seconds
            previous = seconds
        return total

    def has(self, network: str) -> bool:
        """Whether the run has a network, by its recipe; true without a recipe."""
        return not self.recipe or network in self.recipe

    def series(self, select: Callable[[Object], Mapping[str, Any] | None]) -> Series:
        """Named values over training: name -> steps and values ``(N,)``, NaN for a missing value.

        Args:
            select: returns the values of a logged line, or None if it has no such values.
        """
        selected = [(line["step"], select(line)) for line in self.lines]
        rows = [(step, values) for step, values in selected if values is not None]
        steps = np.array([step for step, _ in rows], dtype=float)
        series = {}
        for name in dict.fromkeys(name for _, values in rows for name in values):
            # As floats, null becomes NaN.
            column = np.array([values.get(name) for _, values in rows], dtype=float)
            series[name] = (steps, np.where(np.isfinite(column), column, np.nan))
        return series

    def samples(self, limit: int) -> dict[int, Image.Image]:
        """Grids of generated images by step: all, or ``limit`` of them, evenly spread."""
        steps = list(self.grids)
        spread = np.linspace(0, len(steps) - 1, min(limit, len(steps))).round().astype(int)
        pictures = {i: self._file(self.grids[steps[i]], _picture, None) for i in spread}
        return {steps[i]: picture for i, picture in pictures.items() if picture is not None}

    def last_samples(self) -> tuple[int, Image.Image]:
        """The newest grid of generated images that can be read, and its step.

        Raises:
            Lacking: there is no such grid.
        """
        for step in reversed(self.grids):
            if (picture := self._file(self.grids[step], _picture, None)) is not None:
                return step, picture
        raise Lacking(self.why_no("samples/step-"))

    def tiles(self, picture: Image.Image) -> np.ndarray:
        """The images ``(N, S, S)`` uint8 of a sample grid, row by row.

        Raises:
            Lacking: the recipe holds no image size, or the picture is no grid of such images.
        """
        side = self.recipe.get("data", {}).get("image_size")
        if not side:
            raise Lacking(self.why_no("recipe.toml"))
        columns, rows = ((length + GAP) // (side + GAP) for length in picture.size)
        if picture.size != (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP):
            width, height = picture.size
            raise Lacking(f"a sample of {width} x {height} pixels is no grid of {side} x {side}")
        pixels = np.pad(np.asarray(picture.convert("L")), (0, GAP))
        cells = pixels.reshape(rows, side + GAP, columns, side + GAP).swapaxes(1, 2)
        return cells[:, :, :side, :side].reshape(rows * columns, side, side)

    def classes_of(self, name: str) -> tuple[str, dict[str, np.ndarray]]:
        """The classes of the images in the sample grid ``samples/NAME.png``.

        Returns:
            The source of the classes: ``"label"`` of a real image; ``"condition"`` that an image
            was generated from; or ``"p"``, the classifier's most probable class, or all classes
            above 0.5 if an image can have several. And class -> ``(N,)`` bool, in the order of
            :meth:`tiles`.

        Raises:
            Lacking: the run holds no such table.
        """
        table = self.optional(f"samples/{name}.csv", file_readers.classes)
        if table is None:
            raise Lacking(self.why_no(f"samples/{name}.csv"))
        source, names, values = table
        present = values > 0.5
        if source == "p" and self.recipe.get("data", {}).get("label_policy") != "multi":
            present = values.argmax(axis=1)[:, None] == np.arange(len(names))
        return source, dict(zip(names, present.T, strict=True))

    def optional(self, name: str, parse: Callable[[str], Read]) -> Read | None:
        """The content of a file that not every run has; None without the file.

        It is read once: a comparison needs the same tables for each metric.
        """
        if (name, parse) not in self._optional:
            self._optional[name, parse] = self._text(name, parse, None, needed=False)
        return self._optional[name, parse]

    def by_class(self, step: int, limit: int) -> ByClass:
        """Real images, and the generated images of a step, class by class.

        Args:
            limit: most images of a class, real and generated each.

        Raises:
            Lacking: the run lacks the grids, or the classes of their images.
        """
        if self.real is None:
            raise Lacking(self.why_no("samples/real.png"))
        grid = self._file(self.grids[step], _picture, None)
        if grid is None:
            raise Lacking(self.why_no(self.grids[step]))
        _, real = self.classes_of("real")
        source, generated = self.classes_of(f"step-{step:08d}")
        sides = [(self.tiles(self.real), real), (self.tiles(grid), generated)]
        if any(len(images) != len(rows) for images, classes in sides for rows in classes.values()):
            raise Lacking("the tables in samples/ are not as long as the grids")
        names = [n for n in real if n in generated and (real[n].any() or generated[n].any())]
        if not names:
            raise Lacking("no image of the grids has a class")
        left, right = ([i[classes[name]][:limit] for name in names] for i, classes in sides)
        return ByClass(names, left, right, source)

    def why_no(self, name: str) -> str:
        """Why a file, or the first whose name begins so, was not read."""
        return f"there is no {next((file for file in self.missing if file.startswith(name)), name)}"

    def curves(self) -> tuple[Predictions, dict[str, str]]:
        """The predictions of classes that have ROC curves, and why the other classes have none."""
        drawable, reasons = [], {}
        for name, truth, probs in self.predictions or []:
            positives, n = int(truth.sum()), len(truth)
            if not np.isfinite(probs).all():
                reasons[name] = "not all probabilities are numbers"
            elif positives in (0, n):
                reasons[name] = f"the {self.kind} split has {positives:,} of {n:,} images positive"
            else:
                drawable.append((name, truth, probs))
        return drawable, reasons

    def confusion(self) -> np.ndarray:
        """The measured images by their true class (row) and their most probable class (column).

        Returns:
            ``(K, K)`` int, in the order of the predictions.

        Raises:
            Lacking: images can have several classes or none, or a probability is not a number.
        """
        _, labels, columns = zip(*self.predictions or [], strict=True)
        truth, probs = np.column_stack(labels), np.column_stack(columns)
        if not len(truth):
            raise Lacking(f"there are no {self.kind} images")
        policy = self.recipe.get("data", {}).get("label_policy")
        if policy == "multi" or (truth.sum(axis=1) != 1).any():
            raise Lacking("an image can have several of the classes or none")
        if not np.isfinite(probs).all():
            raise Lacking("not all probabilities are numbers")
        counts = np.zeros((len(labels), len(labels)), dtype=int)
        np.add.at(counts, (truth.argmax(axis=1), probs.argmax(axis=1)), 1)
        return counts

    def _find_grids(self) -> dict[int, str]:
        grids = {
            int(path.stem.removeprefix("step-")): f"samples/{path.name}"
            for path in sorted((self.directory / "samples").glob("step-*.png"))
            if path.stem.removeprefix("step-").isdecimal()
        }
        if not grids:
            self.missing.append("samples/step-*.png")
        return grids

    def _text(
        self, name: str, parse: Callable[[str], Read], absent: Else, *, needed: bool = True
    ) -> Read | Else:
        def read(path: Path) -> Read:
            return parse(read_text(path, LARGEST))

        return self._file(name, read, absent, needed=needed)

    def _file(
        self, name: str, read: Callable[[Path], Read], absent: Else, *, needed: bool = True
    ) -> Read | Else:
        """The content of a file; one that is absent counts as missing only if it is needed."""
        try:
            return read(self.directory / name)
        except FileNotFoundError:
            if needed:
                self.missing.append(name)
        except BROKEN as error:
            self._add_damaged(f"{name} (cannot be read: {error})")
        return absent

    def _add_damaged(self, description: str) -> None:
        if description not in self.damaged:  # a sample may be read twice
            self.missing.append(description)
            self.damaged.append(description)

    def _lines(self, text: str) -> list[Object]:
        """One object a line; lines that cannot be read are left out."""
        objects, faults = file_readers.readable_lines(text)
        if faults:
            noun = "line" if len(faults) == 1 else "lines"
            self._add_damaged(f"metrics.jsonl ({len(faults)} {noun} cannot be read; {faults[0]})")
        return objects


def _recipe(text: str) -> tuple[str, Object]:
    return text, file_readers.recipe(text)


def _warnings(text: str) -> list[str] | None:
    return [line for line in text.splitlines() if "WARNING" in line]


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(read_bytes(path, LARGEST)), formats=["PNG"]) as image:
            return image.convert("L")
    except UnidentifiedImageError:  # its message names an object in memory
        raise ValueError("not a PNG image") from None
