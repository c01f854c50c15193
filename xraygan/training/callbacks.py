"""What is kept of a run while it trains: logged lines, samples, evaluations, checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from xraygan.utils.csv_cells import write_table
from xraygan.utils.images import image_grid
from xraygan.utils.seeding import rng

from .collapse_monitor import Watch, diversity
from .trackers import Trackers

if TYPE_CHECKING:
    from xraygan.session.session import Session

GRID = 32  # images in a sample grid

_log = logging.getLogger(__name__)


class Keeper:
    """Writes, at its intervals and at the end, what a recipe asks for; on the first rank alone.

    Args:
        total: steps of the whole run.

    Attributes:
        newest_sample: the sample grid that this process wrote last.
    """

    def __init__(self, session: Session, place: RunDirectory, total: int) -> None:
        self.words = session.recipe.tables.run
        self.session = session
        self.place = place
        self.total = total
        self.graph = session.graph
        self.device = session.device
        self.watch = Watch()
        self._best: float | None = None
        self.newest_sample: Path | None = None
        chosen = session.recipe.chosen("trackers")
        made = {name: build(choice, place.path) for name, choice in chosen.items()}
        self.trackers = Trackers(made, chosen)

    def begin(self, done: int) -> None:
        """Bring the directory to the state it had after ``done`` steps."""
        self.place.keep_metrics_until(done)
        # A run that died between a checkpoint and what points at it.
        checkpoint.point(self.place.checkpoints, checkpoint.LATEST, done)
        for line in self.place.read_metrics():
            if line.get("best"):
                checkpoint.point(self.place.checkpoints, checkpoint.BEST, line["step"])
                # Former versions measured the test images, with which nothing is compared.
                alike = line.get("split", "test") == self.session.watched
                if alike and self.words.keep_best in line["evaluation"]:
                    self._best = line["evaluation"][self.words.keep_best]
        self.trackers.begin(done)
        images = self._real_images()
        self._real_diversity = diversity(images)
        if not done or not (self.place.samples / "real.png").is_file():
            image_grid(images).save(self.place.samples / "real.png")
        if done == self.total and any(
            name.startswith("samples/") for name in missing_results(self.place.path)
        ):
            self._sample(done)

    def keep(self, done: int, meter: Meter) -> None:
        """Sample, evaluate and save where the recipe asks for it, and at the end."""
        last, best = done == self.total, False

        def due(every: int) -> bool:
            return every > 0 and done % every == 0

        if last or due(self.words.sample_every):
            self._sample(done)
        if due(self.words.evaluate_every) and (not last or self.words.keep_best):
            best = self._evaluate(done)
        if last or best or due(self.words.save_every):
            self.save(done, meter, best=best)

    def save(self, done: int, meter: Meter, *, best: bool = False) -> None:
        """Write a checkpoint."""
        folder, keep = self.place.checkpoints, self.words.keep
        checkpoint.save(folder, done, self.graph, keep, best=best, log=meter.state())

    # -- evaluations -------------------------------------------------------------------------------

    def _evaluate(self, done: int) -> bool:
        """Log the metrics; returns whether they are the best so far."""
        split = self.session.watched
        content, _, errors = evaluate(self.session.evaluation(split), done)
        metrics = content["metrics"]
        for error in errors.values():
            _log.warning("step %d: not measured: %s", done, failure(error))
        values = {n: m["value"] for n, m in metrics.items() if isinstance(m["value"], float)}
        wanted, best = self.words.keep_best, False
        if wanted in values:
            value, sign = values[wanted], -1 if metrics[wanted]["better"] == "lower" else 1
            best = self._best is None or sign * value > sign * self._best
            self._best = value if best else self._best
        elif wanted is not None:
            _log.warning(
                "[run] keep_best: step %d: there is no metric %r, so none is the best; %s",
                done,
                wanted,
                did_you_mean(wanted, values),
            )
        line = {"step": done, "split": split, "evaluation": values, "best": best}
        self.place.append_metrics(line)
        group = "validation" if split == "val" else "evaluation"
        self.trackers.log(done, {f"{group}/{name}": value for name, value in values.items()})
        return best

    # -- samples -----------------------------------------------------------------------------------

    def _sample(self, done: int) -> None:
        if "generator" not in self.graph.networks:
            return
        source = rng(self.device, self.words.seed, "samples")  # the same latents every time
        told = self.session.data.splits["train"].encoded(self.graph.task.metadata)
        made = generate(self.graph, GRID, source, device=self.device, metadata=told)
        path = self.place.samples / f"step-{done:08d}.png"
        if self.graph.networks["generator"].conditional:
            self._write_classes(path, "condition", made.labels)
        elif "classifier" in self.graph.networks:
            evaluation = self.session.evaluation()
            _, probs = evaluation.classify(made.images, made.metadata, real=False)
            self._write_classes(path, "p", torch.from_numpy(probs))
        image_grid(made.images).save(path)
        self.watch.samples(done, done / self.total, diversity(made.images), self._real_diversity)
        self.newest_sample = path
        self.trackers.image(done, path)

    def _real_images(self) -> Tensor:
        split = self.session.data.splits["train"]
        source = rng("cpu", self.words.seed, "samples")
        chosen = torch.randperm(len(split), generator=source)[:GRID]
        labels = torch.from_numpy(split.label_matrix)[chosen]
        self._write_classes(self.place.samples / "real.png", "label", labels)
        return split.images[chosen]

    def _write_classes(self, grid: Path, what: str, values: Tensor) -> None:
        """Write beside a sample grid what its images are, ``(N, K)``."""
        names = [f"{what}:{name}" for name in self.graph.task.classes]
        table = pd.DataFrame(values.numpy(), columns=names)
        write_table(grid.with_suffix(".csv"), table.round(6))

    # -- logged lines ------------------------------------------------------------------------------

    def log(self, done: int, reading: Reading) -> None:
        """Write one line of ``metrics.jsonl``."""
        terms = {term.name for term in self.graph.terms}
        rates = {n: o.param_groups[0]["lr"] for n, o in self.graph.optimizers.items()}
        # A term that nobody learns from may be NaN, and so may a record: JSON has no number for it.
        values = {n: v if math.isfinite(v) else None for n, v in reading.values.items()}
        line: dict[str, Any] = {
            "step": done,
            "progress": done / self.total,
            "terms": {n: v for n, v in values.items() if n in terms},
            "records": {n: v for n, v in values.items() if n not in terms},
            "lr": rates,
            "images_per_second": round(reading.images_per_second, 2),
            "seconds": round(reading.seconds, 3),
        }
        if reading.skipped:
            line["skipped"] = reading.skipped
        self.place.append_metrics(line)
        if (accuracy := reading.values.get("discriminator_accuracy")) is not None:
            self.watch.accuracy(done, reading.steps, accuracy)
        self.trackers.log(done, {**reading.values, "images_per_second": reading.images_per_second})


@dataclass(frozen=True)
class Reading:
    """What a :class:`Meter` has seen since it was last read.

    Attributes:
        values: means over the steps.
        skipped: steps of the whole run that were left out because they were not finite.
        seconds: since the run began.
    """

    values: dict[str, float]
    steps: int
    skipped: int
    images_per_second: float
    seconds: float


class Meter:
    """Means over the steps since the last reading, kept on the device until then."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.began = time.monotonic()
        self.skipped = 0
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.since = time.monotonic()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Note one step's values; nothing for a step that was left out."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1

    def read(self) -> Reading:
        """What was noted; then start over."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        now = time.monotonic()
        speed = self.steps * self.batch_size / max(now - self.since, 1e-9)
        reading = Reading(means, self.steps, self.skipped, speed, now - self.began)
        self._clear()
        return reading

    def state(self) -> checkpoint.Gathered:
        """What a checkpoint between two logged lines has to carry, for the same next line."""
        sums = {name: float(total) for name, total in self.sums.items()}
        return checkpoint.Gathered(
            sums=sums, counts=self.counts, steps=self.steps, skipped=self.skipped
        )

    def restore(self, state: checkpoint.Gathered) -> None:
        """Go on from a :meth:`state`."""
        self.sums = {name: torch.tensor(total) for name, total in state.sums.items()}
        self.counts = dict(state.counts)
        self.steps, self.skipped = state.steps, state.skipped
