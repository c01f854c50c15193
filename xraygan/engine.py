"""The training loop: schedule, logging, and when to save, to sample and to evaluate."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .batches import Batches
from .display import Display, logging_to
from .errors import UserError
from .evaluate import Evaluation, evaluate, generate, predictions
from .graph import TrainingGraph, assemble, build
from .interfaces import Tracker
from .precision import choose_device, choose_precision, make_deterministic
from .recipe import Recipe, load
from .rundir import RunDirectory, image_grid, write_json, write_table
from .seeding import derive_seed, rng
from .store import ImageData, prepare

GRID = 32  # images in a sample grid

_log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal ended the run after its step was finished and saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Session:
    """A recipe brought to life: its data, its graph, and where they are."""

    recipe: Recipe
    device: torch.device
    data: ImageData
    graph: TrainingGraph

    @classmethod
    def of(cls, recipe: Recipe, display: Display) -> Session:
        """Prepare the data and build the networks."""
        make_deterministic()
        words = recipe.tables.run
        device = choose_device(words.device)
        autocast = choose_precision(words.precision, device)
        data = prepare(recipe, display.progress)
        return cls(recipe, device, data, assemble(recipe, data.task, device, autocast))

    def evaluation(self) -> Evaluation:
        """What metrics measure, with the networks as they are now."""
        splits = self.data.splits
        return Evaluation(self.recipe, self.graph, splits["train"], splits["test"], self.device)


def run(
    recipe: Recipe,
    directory: Path | None = None,
    *,
    resume: bool = False,
    display: Display | None = None,
) -> RunDirectory:
    """Train a recipe, evaluate it, and leave a run directory.

    Args:
        directory: ``runs/NAME`` by default.
        resume: continue the run in the directory, if there is one.

    Returns:
        The run directory; a finished run that is resumed is returned as it is.

    Raises:
        UserError: the recipe, the data or a plugin is at fault.
        Interrupted: SIGINT or SIGTERM came; the last step is saved.
    """
    display = display or Display()
    place = RunDirectory(directory or Path("runs") / recipe.name)
    if resume and place.evaluation.exists():
        place.begin(recipe, resume=True)
        display.say(f"{place.path} is complete")
        return place
    with place.locked():
        _refuse_early(place, resume)
        session = Session.of(recipe, display)
        place.begin(recipe, resume=resume)
        with logging_to(place.log, display):
            place.write_environment(recipe, session.device, session.data.summary())
            for warning in session.data.warnings:
                _log.warning(warning)
            loop = Loop(session, place, display)
            loop.run()
            finish(session, place, loop.total)
    return place


def restore(
    directory: Path, overrides: Iterable[str], display: Display
) -> tuple[Session, RunDirectory, int]:
    """A run's session with the networks of its newest checkpoint, and that checkpoint's step.

    Raises:
        UserError: it is no run, or has no checkpoint whose files match their hashes.
    """
    place = RunDirectory.open(directory)
    session = Session.of(load(place.recipe, overrides), display)
    found = checkpoint.latest(place.checkpoints)
    if found is None:
        raise UserError(f"{place.checkpoints}: there is no whole checkpoint")
    found.load_networks(session.graph)
    return session, place, found.step


def _refuse_early(place: RunDirectory, resume: bool) -> None:
    """Say that a directory is taken before the data is prepared, not after."""
    if place.recipe.exists() and not resume:
        raise UserError(
            f"{place.path} already holds a run. Continue it with --resume, or choose another "
            "directory with --out DIR"
        )


def finish(session: Session, place: RunDirectory, step: int) -> dict[str, Any]:
    """Write ``evaluation.json``, ``predictions.csv`` and the report; returns the evaluation."""
    from .report import write_report  # matplotlib takes seconds to import: only when it is needed

    evaluation = session.evaluation()
    result, resamples = evaluate(evaluation, step)
    if "classifier" in session.graph.networks:
        write_table(place.predictions, predictions(evaluation))
    if len(resamples):
        write_table(place.bootstrap, resamples.round(6))
    write_json(place.evaluation, result)
    write_report(place.path)
    return result


class Loop:
    """The steps of one run."""

    def __init__(self, session: Session, place: RunDirectory, display: Display) -> None:
        words = session.recipe.tables.run
        self.session = session
        self.place = place
        self.display = display
        self.graph = session.graph
        self.device = session.device
        self.batches = self._batches("train")
        self.unlabelled: Batches | None = None
        if session.recipe.tables.data.unlabelled:
            self.unlabelled = self._batches("unlabelled")
        self.words = words
        self.total = words.steps or (words.epochs or 0) * self.batches.steps_per_epoch
        if words.compile != "off":
            for network in self.graph.networks.values():
                network.compile()
        trackers = session.recipe.chosen("trackers").values()
        self.trackers: list[Tracker] = [build(choice, place.path) for choice in trackers]

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

    def run(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            Interrupted: a signal came; the step was finished and saved.
            UserError: a term became non-finite.
        """
        start = self._take_up()
        meter = Meter(self.words.batch_size)
        with (
            noting_signals() as caught,
            self.display.training(self.total, done=start) as show,
        ):
            for step in range(start, self.total):
                values = self.step(step)
                meter.add(values)
                done = step + 1
                if done % self.words.log_every == 0 or done == self.total:
                    show(done, self._log(done, meter))
                self._keep(done)
                if caught:
                    self._save(done)
                    raise Interrupted(caught[0])
        for tracker in self.trackers:
            tracker.close()

    def step(self, step: int) -> dict[str, Tensor]:
        """Take training step 0, 1, 2, ...: every term's value and what parts recorded."""
        seed, progress = self.words.seed, step / self.total
        phase = self.session.recipe.tables.schedule.phase(progress)
        generator, discriminator = phase.due(step)
        due = {"generator": generator, "discriminator": discriminator}
        due |= dict.fromkeys(phase.waits, False)
        real, labels, metadata = self.batches.batch(step)
        unlabelled = self.unlabelled.batch(step)[0] if self.unlabelled else None
        torch.manual_seed(derive_seed(seed, "step", step))  # dropout and the like
        current = self.graph.step(
            real,
            labels,
            rng(self.device, seed, "latent", step),
            metadata=metadata,
            unlabelled=unlabelled,
            progress=progress,
            learning=frozenset(n for n in self.graph.optimizers if due.get(n, True)),
        )
        values, gradients = self.graph.gradients(current)
        self.graph.update(gradients, step)
        return {**values, **current.records}

    def _take_up(self) -> int:
        """Restore the newest checkpoint, if any; returns the steps that are done."""
        found = checkpoint.latest(self.place.checkpoints)
        if found is None:
            self.place.keep_metrics_until(0)
            self._real_samples()
            _log.info("training %d steps on %s", self.total, self.device)
            return 0
        found.load(self.graph)
        self.place.keep_metrics_until(found.step)
        _log.info("resumed at step %d of %d", found.step, self.total)
        return found.step

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
        images, _ = generate(self.graph, GRID, source, device=self.device)
        path = self.place.samples / f"step-{done:08d}.png"
        image_grid(images).save(path)
        for tracker in self.trackers:
            tracker.image(done, path)

    def _real_samples(self) -> None:
        images = self.session.data.splits["train"].images
        source = rng("cpu", self.words.seed, "samples")
        chosen = torch.randperm(len(images), generator=source)[:GRID]
        image_grid(images[chosen]).save(self.place.samples / "real.png")

    def _log(self, done: int, meter: Meter) -> dict[str, float]:
        """Write one line of ``metrics.jsonl``; returns what the display shows."""
        values, speed, seconds = meter.read()
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{self.place.path}: the term {name!r} is {value} at step {done}. The last "
                    "checkpoint is intact; a lower learning rate or weight of that term may help"
                )
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


@contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Within it SIGINT and SIGTERM are noted in the list, so that the step can be finished."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may set handlers
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
