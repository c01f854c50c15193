"""The TensorBoard tracker."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xraygan import Tracker, UserError
from xraygan.plugin_api import RunDirectory, missing_results


class TensorBoard(Tracker):
    """TensorBoard: curves, sample grids, and the recipe's values with the results

    Writes to ``tensorboard/`` in the run directory; ``tensorboard --logdir runs`` then compares all
    runs below ``runs``. It needs a package: ``pip install 'xraygan[tensorboard]'``.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "[trackers.tensorboard]: the package tensorboard is not installed: "
                "pip install 'xraygan[tensorboard]'"
            ) from None
        self.directory = directory
        self._open = SummaryWriter
        self._writer: Any = None

    def begin(self, step: int) -> None:
        # TensorBoard hides the values that were logged after the step from which a run resumes.
        self._writer = self._open(str(self.directory / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, step: int, path: Path) -> None:
        with Image.open(path) as grid:
            self._writer.add_image("samples", np.asarray(grid), step, dataformats="HW")

    def close(self) -> None:
        recipe = tomllib.loads((self.directory / "recipe.toml").read_text(encoding="utf-8"))
        if not missing_results(self.directory):  # or the figures are of an earlier step
            metrics = RunDirectory(self.directory).read_evaluation().get("metrics", {})
            values = {name: metric.get("value") for name, metric in metrics.items()}
            figures = {name: value for name, value in values.items() if isinstance(value, float)}
            self._writer.add_hparams(dict(_leaves(recipe)), figures, run_name=".")
        self._writer.close()


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("scores.gram.weight", 0.1)`` for every value of a recipe."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}",
                value if isinstance(value, str | int | float) else json.dumps(value),
            )
