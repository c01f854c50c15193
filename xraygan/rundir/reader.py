"""What the files of a run directory hold, for those who read a run and do not run it."""

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

from . import file_readers as parsing
from .file_readers import LARGEST, Object, Predictions, Read

GAP = 2  # pixels between the images of a sample grid

#: what malformed JSON, TOML, CSV, UTF-8 and PNG raise
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error,
          Image.DecompressionBombError)  # fmt: skip

Series = dict[str, tuple[np.ndarray, np.ndarray]]
Else = TypeVar("Else")


def _measured_on(split: str) -> Callable[[Object], Mapping[str, Any] | None]:
    """What a logged line measured on a split; former versions measured on the test images."""
    return lambda line: line.get("evaluation") if line.get("split", "test") == split else None


#: title -> the values of a logged line, besides those of the terms
ALSO_LOGGED: dict[str, Callable[[Object], Mapping[str, Any] | None]] = {
    "Also recorded": lambda line: line.get("records"),
    "Measured during training, on validation images": _measured_on("val"),
    "Measured during training, on test images": _measured_on("test"),
}


class Lacking(Exception):
    """The run does not hold what was asked for; the message says why, as the end of a sentence."""


class ByClass(NamedTuple):
    """Images ``(n, S, S)`` uint8 of each class that is on either side.

    Attributes:
        source: what generated images have their class from; see :meth:`RunFiles.classes_of`.
    """

    names: list[str]
    real: list[np.ndarray]
    generated: list[np.ndarray]
    source: str


class RunFiles:
    """A run directory, read whole; empty where a file is absent.

    Attributes:
        recipe: the tables of ``recipe.toml``; ``recipe_text`` is the file itself.
        lines: the objects of ``metrics.jsonl``, in the order of their steps.
        predictions: each class of ``predictions.csv`` with its labels and its probabilities,
            ``(N,)`` each; None without the file.
        real: the grid of real images, None if there is none.
        grids: the files of the grids of generated images, by step.
        warnings: the lines of ``run.log`` that warn; ``None`` without the file.
        missing: the files that are absent or could not be read.
        damaged: those of them that are there and are not what a run writes, and why.

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
        self.environment: Object = self._text("environment.json", parsing.environment, {})
        self.lines: list[Object] = self._text("metrics.jsonl", self._lines, [])
        self.evaluation: Object = self._text("evaluation.json", parsing.evaluation, {})
        self.warnings = self._text("run.log", _warnings, None)
        self.predictions: Predictions | None = None
        if self.has("classifier"):
            self.predictions = self._text("predictions.csv", parsing.predictions, None)
        self.real: Image.Image | None = None
        self.grids: dict[int, str] = {}
        if self.has("generator"):
            self.real = self._file("samples/real.png", _picture, None)
            self.grids = self._find_grids()
        if not (self.recipe_text or self.environment or self.lines or self.evaluation):
            raise UserError(f"{directory}: not a run directory (it has no {self.missing[0]})")

    @classmethod
    def open(cls, directory: Path) -> RunFiles:
        """A directory that a reader names.

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
        """``"test"`` or ``"validation"``: the images that the evaluation and predictions are of."""
        split = self.evaluation.get("protocol", {}).get("split") or "test"
        return SPLIT_NAMES.get(split, split)

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
        series = {}
        for name in names:  # as floats, null becomes NaN
            values = np.array([found.get(name) for _, found in picked], dtype=float)
            series[name] = (steps, np.where(np.isfinite(values), values, np.nan))
        return series

    def samples(self, most: int) -> dict[int, Image.Image]:
        """Grids of generated images by step: all, or ``most`` of them, evenly spread."""
        steps = list(self.grids)
        spread = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
        found = {i: self._file(self.grids[steps[i]], _picture, None) for i in spread}
        return {steps[i]: picture for i, picture in found.items() if picture is not None}

    def last_samples(self) -> tuple[int, Image.Image]:
        """The newest grid of generated images that is whole, and its step.

        Raises:
            Lacking: there is none.
        """
        for step in reversed(self.grids):
            if (picture := self._file(self.grids[step], _picture, None)) is not None:
                return step, picture
        raise Lacking(self.why_no("samples/step-"))

    def tiles(self, picture: Image.Image) -> np.ndarray:
        """The images ``(N, S, S)`` uint8 of a sample grid, row by row.

        Raises:
            Lacking: the recipe does not say how large they are, or the grid is not one of them.
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
        """Which images of the sample grid ``samples/NAME.png`` are of each class.

        Returns:
            What says so: ``"label"`` of a real image; ``"condition"`` that a generated one was made
            from; else ``"p"``, the classifier's most probable class, or all above 0.5 where an
            image can have several. And class -> ``(N,)`` bool, in the order of :meth:`tiles`.

        Raises:
            Lacking: the run has not kept it.
        """
        read = self.optional(f"samples/{name}.csv", parsing.classes)
        if read is None:
            raise Lacking(self.why_no(f"samples/{name}.csv"))
        what, names, values = read
        kept = values > 0.5
        if what == "p" and self.recipe.get("data", {}).get("label_policy") != "multi":
            kept = values.argmax(axis=1)[:, None] == np.arange(len(names))
        return what, dict(zip(names, kept.T, strict=True))

    def optional(self, name: str, parse: Callable[[str], Read]) -> Read | None:
        """What a file holds that a run need not have; None where there is none.

        It is read once: a comparison asks for the same tables metric by metric.
        """
        if (name, parse) not in self._optional:
            self._optional[name, parse] = self._text(name, parse, None, needed=False)
        return self._optional[name, parse]

    def by_class(self, step: int, most: int) -> ByClass:
        """Real images and those of the grid of a step, class by class.

        Args:
            most: images of a class on either side, at most.

        Raises:
            Lacking: the run has not kept the grids, or what their images are of.
        """
        if self.real is None:
            raise Lacking(self.why_no("samples/real.png"))
        made = self._file(self.grids[step], _picture, None)
        if made is None:
            raise Lacking(self.why_no(self.grids[step]))
        _, real = self.classes_of("real")
        source, generated = self.classes_of(f"step-{step:08d}")
        sides = [(self.tiles(self.real), real), (self.tiles(made), generated)]
        if any(len(images) != len(kept) for images, of in sides for kept in of.values()):
            raise Lacking("the tables in samples/ are not as long as the grids")
        names = [n for n in real if n in generated and (real[n].any() or generated[n].any())]
        if not names:
            raise Lacking("no image of the grids is of a class")
        left, right = ([images[of[name]][:most] for name in names] for images, of in sides)
        return ByClass(names, left, right, source)

    def why_no(self, name: str) -> str:
        """Why a file, or the first that begins so, was not read."""
        return f"there is no {next((e for e in self.missing if e.startswith(name)), name)}"

    def curves(self) -> tuple[Predictions, dict[str, str]]:
        """The classes of the predictions that have ROC curves, and why each other has none."""
        kept, left = [], {}
        for name, truth, probs in self.predictions or []:
            positives, n = int(truth.sum()), len(truth)
            if not np.isfinite(probs).all():
                left[name] = "not all probabilities are numbers"
            elif positives in (0, n):
                left[name] = f"the {self.kind} split has {positives:,} of {n:,} images positive"
            else:
                kept.append((name, truth, probs))
        return kept, left

    def confusion(self) -> np.ndarray:
        """The measured images by their true class (row) and their most probable class (column).

        Returns:
            ``(K, K)`` int, in the order of the predictions.

        Raises:
            Lacking: an image need not have exactly one class, or a probability is no number.
        """
        _, labels, columns = zip(*self.predictions or [], strict=True)
        truth, probs = np.column_stack(labels), np.column_stack(columns)
        if not len(truth):
            raise Lacking(f"there are no {self.kind} images")
        policy = self.recipe.get("data", {}).get("label_policy")
        if policy == "multi" or (truth.sum(axis=1) != 1).any():
            raise Lacking("an image can have none or several of the classes")
        if not np.isfinite(probs).all():
            raise Lacking("not all probabilities are numbers")
        counts = np.zeros((len(labels), len(labels)), dtype=int)
        np.add.at(counts, (truth.argmax(axis=1), probs.argmax(axis=1)), 1)
        return counts

    def _find_grids(self) -> dict[int, str]:
        found = {
            int(path.stem.removeprefix("step-")): f"samples/{path.name}"
            for path in sorted((self.directory / "samples").glob("step-*.png"))
            if path.stem.removeprefix("step-").isdecimal()
        }
        if not found:
            self.missing.append("samples/step-*.png")
        return found

    def _text(
        self, name: str, parse: Callable[[str], Read], absent: Else, *, needed: bool = True
    ) -> Read | Else:
        def read(path: Path) -> Read:
            return parse(read_text(path, LARGEST))

        return self._file(name, read, absent, needed=needed)

    def _file(
        self, name: str, read: Callable[[Path], Read], absent: Else, *, needed: bool = True
    ) -> Read | Else:
        """What a file holds; only one that is needed is missed."""
        try:
            return read(self.directory / name)
        except FileNotFoundError:
            if needed:
                self.missing.append(name)
        except BROKEN as error:
            self._damage(f"{name} (cannot be read: {error})")
        return absent

    def _damage(self, what: str) -> None:
        if what not in self.damaged:  # a sample may be read twice
            self.missing.append(what)
            self.damaged.append(what)

    def _lines(self, text: str) -> list[Object]:
        """One object a line; those that cannot be read are left out."""
        found, broken = parsing.some_lines(text)
        if broken:
            what = "line" if len(broken) == 1 else "lines"
            self._damage(f"metrics.jsonl ({len(broken)} {what} cannot be read; {broken[0]})")
        return found


def _recipe(text: str) -> tuple[str, Object]:
    return text, parsing.recipe(text)


def _warnings(text: str) -> list[str] | None:
    return [line for line in text.splitlines() if "WARNING" in line]


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(read_bytes(path, LARGEST)), formats=["PNG"]) as image:
            return image.convert("L")
    except UnidentifiedImageError:  # whose message names an object in memory
        raise ValueError("not a PNG image") from None
