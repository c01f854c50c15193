"""The callbacks of a run: they log metrics, and write samples, evaluations and checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from xraygan.errors import did_you_mean
from xraygan.evaluation.evaluation import evaluate, failure
from xraygan.evaluation.generation import generate
from xraygan.parts.building import build
from xraygan.rundir import checkpoint
from xraygan.rundir.completion import missing_results
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.utils.csv_cells import write_table
from xraygan.utils.images import image_grid
from xraygan.utils.seeding import rng

from .collapse_monitor import CollapseMonitor, diversity
from .trackers import Trackers

GRID = 32  # images in a sample grid

_log = logging.getLogger(__name__)


class Callbacks:
    """Writes logs, samples, evaluations and checkpoints at the recipe's intervals and at the end.

    Only the first rank has them.

    Args:
        total: steps of the whole run.

    Attributes:
        newest_sample: the sample grid that this process wrote last.
    """

    def __init__(self, session: Session, run_dir: RunDirectory, total: int) -> None:
        self.config = session.recipe.tables.run
        self.session = session
        self.run_dir = run_dir
        self.total = total
        self.graph = session.graph
        self.device = session.device
        self.watch = CollapseMonitor()
        self._best_value: float | None = None
        self.newest_sample: Path | None = None
        choices = session.recipe.chosen("trackers")
        trackers = {name: build(choice, run_dir.path) for name, choice in choices.items()}
        self.trackers = Trackers(trackers, choices)

    def on_train_start(self, done: int) -> None:
        """Bring the run directory to the state that it had after ``done`` steps.

        A run that was killed may have logged lines of steps that its newest checkpoint does not
        have: they are removed, since the resumed run takes these steps again.
        """
        self.run_dir.keep_metrics_until(done)
        # The run may have died after it wrote a checkpoint and before it wrote the pointer to it.
        checkpoint.point(self.run_dir.checkpoints, checkpoint.LATEST, done)
        for line in self.run_dir.read_metrics():
            if line.get("best"):
                checkpoint.point(self.run_dir.checkpoints, checkpoint.BEST, line["step"])
                # Earlier versions measured the test images: their values are not comparable.
                comparable = line.get("split", "test") == self.session.watched
                if comparable and self.config.keep_best in line["evaluation"]:
                    self._best_value = line["evaluation"][self.config.keep_best]
        # Or it may have died before it removed what it no longer needs. After the last step no
        # checkpoint is written any more that would do it.
        checkpoint.tidy(self.run_dir.checkpoints, done, self.config.keep)
        self.trackers.begin(done)
        images = self._real_images()
        self._real_diversity = diversity(images)
        if not done or not (self.run_dir.samples / "real.png").is_file():
            image_grid(images).save(self.run_dir.samples / "real.png")
        if done == self.total and any(
            name.startswith("samples/") for name in missing_results(self.run_dir.path)
        ):
            self._sample(done)

    def on_step_end(self, done: int, meter: MetricAccumulator) -> None:
        """Sample, evaluate and save, if any of these is due after ``done`` steps."""
        last, best = done == self.total, False

        def due(every: int) -> bool:
            return every > 0 and done % every == 0

        if last or due(self.config.sample_every):
            self._sample(done)
        if due(self.config.evaluate_every) and (not last or self.config.keep_best):
            best = self._evaluate(done)
        if last or best or due(self.config.save_every):
            self.save(done, meter, best=best)

    def save(self, done: int, meter: MetricAccumulator, *, best: bool = False) -> None:
        """Write a checkpoint."""
        folder, keep = self.run_dir.checkpoints, self.config.keep
        checkpoint.save(folder, done, self.graph, keep, best=best, log=meter.state())

    # -- evaluations -------------------------------------------------------------------------------

    def _evaluate(self, done: int) -> bool:
        """Log the metrics; returns whether the one of ``[run] keep_best`` is the best so far."""
        split = self.session.watched
        content, _, errors = evaluate(self.session.evaluation(split), done)
        metrics = content["metrics"]
        for error in errors.values():
            _log.warning("step %d: not measured: %s", done, failure(error))
        values = {n: m["value"] for n, m in metrics.items() if isinstance(m["value"], float)}
        name, best = self.config.keep_best, False
        if name in values:
            value, sign = values[name], -1 if metrics[name]["better"] == "lower" else 1
            best = self._best_value is None or sign * value > sign * self._best_value
            self._best_value = value if best else self._best_value
        elif name is not None:
            _log.warning(
                "[run] keep_best: step %d: there is no metric %r, so no checkpoint is the best; %s",
                done,
                name,
                did_you_mean(name, values),
            )
        line = {"step": done, "split": split, "evaluation": values, "best": best}
        self.run_dir.append_metrics(line)
        group = "validation" if split == "val" else "evaluation"
        self.trackers.log(done, {f"{group}/{name}": value for name, value in values.items()})
        return best

    # -- samples -----------------------------------------------------------------------------------

    def _sample(self, done: int) -> None:
        if "generator" not in self.graph.networks:
            return
        source = rng(self.device, self.config.seed, "samples")  # the same latents every time
        metadata = self.session.data.splits["train"].encoded(self.graph.task.metadata)
        sampled = generate(self.graph, GRID, source, device=self.device, metadata=metadata)
        path = self.run_dir.samples / f"step-{done:08d}.png"
        if self.graph.networks["generator"].conditional:
            self._write_classes(path, "condition", sampled.labels)
        elif "classifier" in self.graph.networks:
            evaluation = self.session.evaluation()
            _, probs = evaluation.classify(sampled.images, sampled.metadata, real=False)
            self._write_classes(path, "p", torch.from_numpy(probs))
        image_grid(sampled.images).save(path)
        self.watch.check_diversity(
            done, done / self.total, diversity(sampled.images), self._real_diversity
        )
        self.newest_sample = path
        self.trackers.image(done, path)

    def _real_images(self) -> Tensor:
        split = self.session.data.splits["train"]
        source = rng("cpu", self.config.seed, "samples")
        rows = torch.randperm(len(split), generator=source)[:GRID]
        labels = torch.from_numpy(split.label_matrix)[rows]
        self._write_classes(self.run_dir.samples / "real.png", "label", labels)
        return split.images[rows]

    def _write_classes(self, grid: Path, prefix: str, values: Tensor) -> None:
        """Write the classes of a sample grid's images, ``(N, K)``, as a CSV file beside it."""
        names = [f"{prefix}:{name}" for name in self.graph.task.classes]
        table = pd.DataFrame(values.numpy(), columns=names)
        write_table(grid.with_suffix(".csv"), table.round(6))

    # -- logged lines ------------------------------------------------------------------------------

    def log(self, done: int, metrics: IntervalMetrics) -> None:
        """Write one line of ``metrics.jsonl``."""
        terms = {term.name for term in self.graph.terms}
        # Records and terms that train no network may be NaN: JSON has no number for it.
        values = {n: v if math.isfinite(v) else None for n, v in metrics.values.items()}
        line: dict[str, Any] = {
            "step": done,
            "progress": done / self.total,
            "terms": {n: v for n, v in values.items() if n in terms},
            "records": {n: v for n, v in values.items() if n not in terms},
            "lr": self.graph.learning_rates(),
            "images_per_second": round(metrics.images_per_second, 2),
            "seconds": round(metrics.seconds, 3),
        }
        if metrics.skipped:
            line["skipped"] = metrics.skipped
        self.run_dir.append_metrics(line)
        if (accuracy := metrics.values.get("discriminator_accuracy")) is not None:
            self.watch.check_accuracy(done, metrics.steps, accuracy)
        self.trackers.log(done, {**metrics.values, "images_per_second": metrics.images_per_second})


@dataclass(frozen=True)
class IntervalMetrics:
    """The metrics of the steps between two logged lines.

    Attributes:
        values: means over the steps.
        steps: how many they are, those that were skipped included.
        skipped: steps of the whole run that were skipped because they were not finite.
        images_per_second: real images, of all ranks.
        seconds: since the run began.
    """

    values: dict[str, float]
    steps: int
    skipped: int
    images_per_second: float
    seconds: float


class MetricAccumulator:
    """Sums each step's values on the device, and gives their means when a line is logged.

    Args:
        batch_size: images in a step, of all ranks.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.run_start = time.monotonic()
        self.skipped = 0
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.interval_start = time.monotonic()

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's values, ``()`` each; none for a step that was skipped."""
        known = [name for name in values if name in self.sums]
        if known:  # one launch on a GPU, where one for each value would take longer than the step
            sums = [self.sums[name] for name in known], [values[name] for name in known]
            self.sums |= zip(known, torch._foreach_add(*sums), strict=True)
        for name, value in values.items():
            self.sums.setdefault(name, value)
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1

    def compute(self) -> IntervalMetrics:
        """The metrics since the last call; waits for the device, and starts a new interval."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        now = time.monotonic()
        speed = self.steps * self.batch_size / max(now - self.interval_start, 1e-9)
        metrics = IntervalMetrics(means, self.steps, self.skipped, speed, now - self.run_start)
        self._reset()
        return metrics

    def state(self) -> checkpoint.Gathered:
        """The sums since the last logged line, for a checkpoint: a run that is resumed from it then
        logs the same next line."""
        sums = {name: float(total) for name, total in self.sums.items()}
        return checkpoint.Gathered(
            sums=sums, counts=self.counts, steps=self.steps, skipped=self.skipped
        )

    def restore(self, state: checkpoint.Gathered) -> None:
        """Continue from a :meth:`state`."""
        self.sums = {name: torch.tensor(total) for name, total in state.sums.items()}
        self.counts = dict(state.counts)
        self.steps, self.skipped = state.steps, state.skipped
