"""A long run of tiny steps, everything on: what it keeps in memory, and how many files it has open.

python benchmarks/memory.py --steps 5000
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from common import Report, benchmark
from rich.console import Console
from torch import Tensor, nn

from xraygan import Classifier, Task
from xraygan.parts.registry import installed
from xraygan.recipe.loading import load_tree
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

MIB = 2**20
CLASSES = ["No Finding", "Edema", "Mass"]
EXTRACTED = ("energy_distance", "sliced_wasserstein", "polynomial_mmd")


class Small(Classifier):
    """Two convolutions in the place of ResNet-18: how fast it is changes nothing of what leaks.

    Args:
        weights: as ResNet-18 has them; not read.
    """

    def __init__(self, task: Task, *, weights: str = "random") -> None:
        super().__init__()
        self.task = task
        self.first = nn.Conv2d(1, 8, 4, stride=4)
        self.second = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 4, stride=4))
        self.last = nn.Linear(16, len(task.classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        second = self.second(first)
        features = second.mean(dim=(2, 3))
        return {"1": first, "2": second, "features": features, "logits": self.last(features)}


def everything(steps: int, often: int) -> dict[str, Any]:
    """A recipe of a UCGAN with every score, metric and tracker that needs no download.

    Args:
        often: steps between two samples, checkpoints and evaluations.
    """
    scores: dict[str, Any] = {"inception": {"weight": -0.1}, "mean_teacher": {"weight": 0.1}}
    scores |= {name: {"weight": 0.01} for name in ("mmd", "mixture_mmd", "sinkhorn", *EXTRACTED)}
    scores |= {
        name: {"weight": 0.001, "extractor": "classifier"} for name in ("gram", "style_transfer")
    }
    scores["style_transfer"]["width"] = 2
    scores["unlabelled_pseudo_label"] = {"weight": 0.1}
    metrics = (
        "auc", "calibration", "classification", "copies", "density_coverage", "frechet",
        "frechet_classifier", "frechet_per_class", "inception_score", "kid", "precision_recall",
    )  # fmt: skip
    return {
        "run": {
            "steps": steps, "batch_size": 4, "device": "cpu", "log_every": 1, "keep": 2,
            "sample_every": often, "save_every": often, "evaluate_every": often,
            "keep_best": "auc/mean",
        },
        "data": {
            "plugin": "phantom", "images": 120, "image_size": 32, "classes": CLASSES,
            "findings": CLASSES, "validation": 0.2, "unlabelled": True, "limit": 8,
        },
        "generator": {"plugin": "dcgan", "width": 4, "average": 0.9},
        "discriminator": {"plugin": "dcgan", "width": 4},
        "objective": {"plugin": "minmax"},
        "augmenter": {"plugin": "ada"},
        "classifier": {"plugin": "resnet18", "average": 0.9},
        "labeler": {"plugin": "confidence", "threshold": 0.4, "weight": 0.1},
        "scores": scores,
        "metrics": {
            **{name: {} for name in metrics},
            "classification_accuracy_score": {"steps": 4},
        },
        "trackers": {"csv": {}, "tensorboard": {}},
        "evaluation": {"generated": 24, "bootstrap": 8, "batch_size": 16},
    }  # fmt: skip


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measured(
    folder: Path, tables: dict[str, Any], leak: Callable[[int], object] = lambda step: None
) -> tuple[np.ndarray, np.ndarray]:
    """Train, and after each step note the bytes in memory and the open files, ``(steps,)`` each.

    Args:
        folder: an empty one.
        tables: of a recipe; its ResNet-18 becomes :class:`Small`.
        leak: called after each step, by a test of what is measured here.
    """
    steps = tables["run"]["steps"]
    memory, files = np.zeros(steps, dtype=np.int64), np.zeros(steps, dtype=np.int64)
    silent = Display(Console(quiet=True))
    # The part keeps its class once it is imported, so its module is the wrong place for a stand-in:
    # it would have no effect on a class that is kept, and be kept itself.
    with mock.patch.dict(installed().get("classifier", "resnet18").__dict__, cls=Small):
        tables = {**tables, "data": {**tables["data"], "cache": str(folder / "cache")}}
        recipe = load_tree(tables, folder / "memory.toml")
        run_dir = RunDirectory(folder / "run")
        session = Session.of(recipe, silent)
        run_dir.create(recipe)
        run_dir.write_environment(recipe, session.device, session.data.summary())
        loop = Trainer(session, run_dir, silent)
        assert loop.callbacks is not None
        on_step_end = loop.callbacks.on_step_end

        def keep_and_note(done: int, *rest: Any) -> None:
            on_step_end(done, *rest)
            leak(done)
            memory[done - 1] = resident()
            files[done - 1] = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

        with mock.patch.object(loop.callbacks, "on_step_end", keep_and_note):
            loop.run()
        loop.callbacks.trackers.close()
    return memory, files


def fifths(values: np.ndarray) -> tuple[float, float]:
    """The medians of a run's third fifth and of its last; a peak changes nothing of them."""
    fifth = len(values) // 5
    return float(np.median(values[2 * fifth : 3 * fifth])), float(np.median(values[-fifth:]))


def growth(values: np.ndarray) -> float:
    """From the third fifth of a run to its last."""
    middle, end = fifths(values)
    return end - middle


@benchmark
@click.option("--steps", type=int, default=5000, show_default=True)
@click.option("--often", type=int, default=250, show_default=True, help="Steps to an evaluation.")
def main(fast: bool, steps: int, often: int) -> Report:
    """Resident memory and open files over a long run with every score, metric and tracker on."""
    steps, often = (60, 20) if fast else (steps, often)
    with tempfile.TemporaryDirectory() as folder:
        memory, files = measured(Path(folder), everything(steps, often))
    report = Report(f"{steps} steps, an evaluation, a sample and a checkpoint every {often}")
    for what, unit, values in (("memory", "MiB", memory / MIB), ("open files", "files", files)):
        middle, end = fifths(values)
        report.add(f"{what}, third fifth", middle, unit)
        report.add(f"{what}, last fifth", end, unit, middle, f"{what}, third fifth")
        report.add(f"{what}, most", float(values.max()), unit, middle, f"{what}, third fifth")
    report.notes.append(
        f"Growth from the third fifth to the last: {growth(memory) / MIB:.2f} MiB, "
        f"{growth(files):g} open files."
    )
    return report


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
