"""The training loop: schedule, logging, and when to save, to sample and to evaluate."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from . import checkpoint
from .batches import Batches
from .display import Display
from .errors import UserError
from .evaluate import evaluate, generate
from .graph import build
from .interfaces import Tracker
from .ranks import Gradients, RankLost, Ranks
from .rundir import RunDirectory, image_grid, write_table
from .seeding import derive_seed, rng
from .signals import Interrupted, noting_signals

if TYPE_CHECKING:
    from .engine import Session

GRID = 32  # images in a sample grid

_log = logging.getLogger(__name__)


class Loop:
    """The steps of one run, as one of its ranks takes them.

    Raises:
        UserError: the batch cannot be shared equally by the ranks and micro-batches.
    """

    def __init__(
        self,
        session: Session,
        place: RunDirectory,
        display: Display,
        ranks: Ranks | None = None,
    ) -> None:
        self.words = session.recipe.tables.run
        self.session = session
        self.place = place
        self.display = display
        self.ranks = ranks or Ranks()
        self.graph = session.graph
        self.device = session.device
        self.batches = self._batches("train")
        self.unlabelled: Batches | None = None
        if session.recipe.tables.data.unlabelled:
            self.unlabelled = self._batches("unlabelled")
        self.total = self.words.steps or (self.words.epochs or 0) * self.batches.steps_per_epoch
        self._compile()
        self.trackers: list[Tracker] = []
        if self.ranks.first:
            trackers = session.recipe.chosen("trackers").values()
            self.trackers = [build(choice, place.path) for choice in trackers]

    def _batches(self, split: str) -> Batches:
        recipe = self.session.recipe.tables
        return Batches(
            self.session.data.splits[split],
            recipe.data,
            exclusive=self.session.data.task.exclusive,
            batch_size=recipe.run.batch_size,
            seed=recipe.run.seed,
            device=self.device,
            stream="" if split == "train" else f"{split} ",
        )

    def _compile(self) -> None:
        modes = {"default": "default", "graphs": "reduce-overhead"}
        if self.words.compile != "off":
            for network in (*self.graph.networks.values(), *self.graph.extractors.values()):
                network.compile(mode=modes[self.words.compile])

    def run(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            Interrupted: a signal came; the step was finished and saved.
            RankLost: another rank ended; the message says what is saved.
            UserError: a term became non-finite.
        """
        start = done = self._take_up()
        meter = Meter(self.words.batch_size)
        with (
            noting_signals() as caught,
            self.display.training(self.total, done=start) as show,
        ):
            try:
                for step in range(start, self.total):
                    meter.add(self.step(step))
                    done = step + 1
                    if done % self.words.log_every == 0 or done == self.total:
                        show(done, self._log(done, meter))
                    if self.ranks.first:
                        self._keep(done)
                    [number] = self.ranks.largest(caught[0] if caught else 0)
                    if number:
                        if self.ranks.first:
                            self._save(done)
                        raise Interrupted(number)
                self.ranks.wait()
            except RankLost as lost:
                raise RankLost(f"{lost}); {self._rescue(done)}") from lost
        for tracker in self.trackers:
            tracker.close()

    def step(self, step: int) -> dict[str, Tensor]:
        """Take training step 0, 1, 2, ...: every term's value and what parts recorded.

        Raises:
            RankLost: another rank ended; the step was not taken.
        """
        if self.words.compile == "graphs" and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        parts = self.words.accumulate
        before = [b.clone() for b in self._buffers()] if self.ranks.count > 1 else []
        try:
            values, gradients = self._part(step, 0)
            for part in range(1, parts):
                more, further = self._part(step, part)
                values = {name: values.get(name, 0) + value for name, value in more.items()}
                gradients = _sum(gradients, further)
            if parts > 1:
                values = {name: value / parts for name, value in values.items()}
                gradients = _scaled(gradients, 1 / parts)
            self.graph.update(gradients, step)
        except RankLost:
            # Batch norms have seen a batch of a step that will be taken again.
            for buffer, value in zip(self._buffers(), before, strict=True):
                buffer.copy_(value)
            raise
        return values

    def _part(self, step: int, part: int) -> tuple[dict[str, Tensor], Gradients]:
        """Values and gradients of this rank's share of one of the parts of a step's batch."""
        seed, progress = self.words.seed, step / self.total
        phase = self.session.recipe.tables.schedule.phase(progress)
        generator, discriminator = phase.due(step)
        due = {"generator": generator, "discriminator": discriminator}
        due |= dict.fromkeys(phase.waits, False)
        index = part * self.ranks.count + self.ranks.index
        shard = (index, self.words.accumulate * self.ranks.count)
        real, labels, metadata = self.batches.batch(step, shard)
        unlabelled = self.unlabelled.batch(step, shard)[0] if self.unlabelled else None
        # Dropout and the like: other numbers for every share of the batch.
        torch.manual_seed(derive_seed(seed, "step", step, *([index] if index else [])))
        current = self.graph.step(
            real,
            labels,
            rng(self.device, seed, "latent", step),
            metadata=metadata,
            unlabelled=unlabelled,
            progress=progress,
            learning=frozenset(n for n in self.graph.optimizers if due.get(n, True)),
            shard=shard,
        )
        values, gradients = self.graph.gradients(current)
        return {**values, **current.records}, gradients

    def _buffers(self) -> list[Tensor]:
        return [b for network in self.graph.networks.values() for b in network.buffers()]

    def _take_up(self) -> int:
        """Restore the newest checkpoint, if any; returns the steps that are done."""
        found = checkpoint.latest(self.place.checkpoints)
        done = 0 if found is None else found.step
        if self.ranks.largest(done) != [done] or self.ranks.largest(-done) != [-done]:
            raise UserError(
                f"{self.place.checkpoints}: the ranks do not see the same checkpoints; the run "
                "directory must be on a disk that all of them share"
            )
        if found is not None:
            found.load(self.graph)
        if self.ranks.first:
            self.place.keep_metrics_until(done)
            if not done:
                self._real_samples()
            each = f" on each of {self.ranks.count} ranks" if self.ranks.count > 1 else ""
            _log.info("at step %d of %d, on %s%s", done, self.total, self.device, each)
        return done

    def _rescue(self, done: int) -> str:
        """After another rank ended, save what is whole here; says what there is."""
        if self.device.type == "cpu":  # a GPU may wait for what the lost rank did not send
            if self.ranks.first:
                self._save(done)
            else:
                self._stand_in(done)
        found = checkpoint.latest(self.place.checkpoints)
        if found is None:
            return "no checkpoint had been written"
        return f"step {found.step} is saved: continue it with --resume"

    def _stand_in(self, done: int) -> None:
        """Save for the first rank if that has ended, and its lock with it."""
        try:
            with self.place.locked():
                found = checkpoint.latest(self.place.checkpoints)
                if found is None or found.step < done:
                    self._save(done)
        except UserError:
            return  # it lives, and saves by itself

    def _keep(self, done: int) -> None:
        """Sample, evaluate and save where the recipe asks for it, and at the end."""
        last = done == self.total

        def due(every: int) -> bool:
            return every > 0 and done % every == 0

        if last or due(self.words.sample_every):
            self._sample(done)
        if not last and due(self.words.evaluate_every):
            result = evaluate(self.session.evaluation(), done)[0]["metrics"]
            values = {n: m["value"] for n, m in result.items() if isinstance(m["value"], float)}
            self.place.append_metrics({"step": done, "evaluation": values})
        if last or due(self.words.save_every):
            self._save(done)

    def _save(self, done: int) -> None:
        checkpoint.save(self.place.checkpoints, done, self.graph, self.words.keep)

    def _sample(self, done: int) -> None:
        if "generator" not in self.graph.networks:
            return
        source = rng(self.device, self.words.seed, "samples")  # the same latents every time
        images, conditions = generate(self.graph, GRID, source, device=self.device)
        path = self.place.samples / f"step-{done:08d}.png"
        if self.graph.networks["generator"].conditional:
            self._write_classes(path, "condition", conditions)
        elif "classifier" in self.graph.networks:
            _, probs = self.session.evaluation().classify(images, real=False)
            self._write_classes(path, "p", torch.from_numpy(probs))
        image_grid(images).save(path)
        for tracker in self.trackers:
            tracker.image(done, path)

    def _real_samples(self) -> None:
        split = self.session.data.splits["train"]
        source = rng("cpu", self.words.seed, "samples")
        chosen = torch.randperm(len(split), generator=source)[:GRID]
        path = self.place.samples / "real.png"
        self._write_classes(path, "label", torch.from_numpy(split.label_matrix)[chosen])
        image_grid(split.images[chosen]).save(path)

    def _write_classes(self, grid: Path, what: str, values: Tensor) -> None:
        """Write beside a sample grid what its images are, ``(N, K)``."""
        names = [f"{what}:{name}" for name in self.graph.task.classes]
        table = pd.DataFrame(values.numpy(), columns=names)
        write_table(grid.with_suffix(".csv"), table.round(6))

    def _log(self, done: int, meter: Meter) -> dict[str, float]:
        """Write one line of ``metrics.jsonl``; returns what the display shows."""
        values, speed, seconds = meter.read()
        values = self.ranks.average(values)
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{self.place.path}: the term {name!r} is {value} at step {done}. The last "
                    "checkpoint is intact; a lower learning rate or weight of that term may help"
                )
        if not self.ranks.first:
            return values
        terms = {term.name for term in self.graph.terms}
        rates = {n: o.param_groups[0]["lr"] for n, o in self.graph.optimizers.items()}
        self.place.append_metrics(
            {
                "step": done,
                "progress": done / self.total,
                "terms": {n: v for n, v in values.items() if n in terms},
                "records": {n: v for n, v in values.items() if n not in terms},
                "lr": rates,
                "images_per_second": round(speed, 2),
                "seconds": round(seconds, 3),
            }
        )
        for tracker in self.trackers:
            tracker.log(done, values)
        return {**values, "images/s": speed}


class Meter:
    """Means over the steps since the last reading, kept on the device until then."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.began = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.since = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1

    def read(self) -> tuple[dict[str, float], float, float]:
        """Means, images per second, and seconds since the run began; then start over."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        now = time.monotonic()
        speed = self.steps * self.batch_size / max(now - self.since, 1e-9)
        self._clear()
        return means, speed, now - self.began


def _sum(a: Gradients, b: Gradients) -> Gradients:
    """The sum of two sets of gradients, None where neither has one."""
    return {
        name: [
            y if x is None else x if y is None else x + y
            for x, y in zip(found, b[name], strict=True)
        ]
        for name, found in a.items()
    }


def _scaled(gradients: Gradients, factor: float) -> Gradients:
    return {
        name: [None if gradient is None else gradient * factor for gradient in found]
        for name, found in gradients.items()
    }
