"""The training loop: the steps of a run, its schedule, and how it ends early."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xraygan.data.batches import Batches
from xraygan.distributed.ranks import Gradients, RankLost, Ranks
from xraygan.errors import UserError
from xraygan.graph.step import Step
from xraygan.parts.interfaces import Augmenter
from xraygan.parts.plugin_errors import PluginFault
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.utils.progress import Display
from xraygan.utils.seeding import derive_seed, rng
from xraygan.utils.signals import Interrupted, record_signals

from . import nonfinite as finite
from .callbacks import Keeper, Meter
from .collapse_monitor import discriminator_accuracy

if TYPE_CHECKING:
    from xraygan.session.session import Session

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
        self.total = self.words.total(self.batches.steps_per_epoch)
        self.guard = finite.Guard(self.device, self.ranks)
        self.meter = Meter(self.words.batch_size)
        self._skipped_in_a_row = 0
        self._compile()
        self.keeper = Keeper(session, place, self.total) if self.ranks.first else None

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
                if not isinstance(network, Augmenter):  # which draws random numbers from the step
                    network.compile(mode=modes[self.words.compile])

    def run(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            Interrupted: a signal came; the step was finished and saved.
            RankLost: another rank ended; the message says what is saved.
            UserError: a term or gradient became non-finite; the message says what there is.
        """
        start = done = self._take_up()
        with (
            record_signals() as caught,
            self.display.training(self.total, done=start) as show,
        ):
            try:
                for step in range(start, self.total):
                    self.meter.add(self.step(step))
                    done = step + 1
                    self._look(done)
                    if done % self.words.log_every == 0 or done == self.total:
                        show(done, self._log(done), self._notes(step))
                    if self.keeper:
                        self.keeper.keep(done, self.meter)
                    [number] = self.ranks.largest(caught[0] if caught else 0)
                    if number:
                        self._look(done, surely=True)
                        if self.keeper:
                            self.keeper.save(done, self.meter)
                        raise Interrupted(number)
                self.ranks.wait()
            except PluginFault as fault:
                raise UserError(f"{fault}{self._after(fault, start, done)}") from fault
            except RankLost as lost:
                raise RankLost(f"{lost}); {self._rescue(done)}") from lost

    def _log(self, done: int) -> dict[str, float]:
        """Write down what the meter says, meant over the ranks; returns what a display shows."""
        reading = self.meter.read()
        reading = replace(reading, values=self.ranks.average(reading.values))
        if self.keeper:
            self.keeper.log(done, reading)
        return {**reading.values, "images/s": reading.images_per_second}

    def _notes(self, step: int) -> list[str]:
        """What a display says beside the numbers: the phase, if there are several, the sample."""
        phases = self.session.recipe.tables.schedule.phases
        phase = self.session.recipe.tables.schedule.phase(step / self.total)
        waits = f", {' and '.join(phase.waits)} waiting" if phase.waits else ""
        now = f"phase {phases.index(phase) + 1} of {len(phases)} ({phase.ratio}{waits})"
        notes = [now] if len(phases) > 1 else []
        if self.keeper and self.keeper.newest_sample:
            notes.append(f"sample {self.keeper.newest_sample}")
        return notes

    def step(self, step: int) -> dict[str, Tensor]:
        """Take training step 0, 1, 2, ...: every term's value and what parts recorded.

        Nothing, if the step was left out because it was not finite.

        Raises:
            RankLost: another rank ended; the step was not taken.
            UserError: too many steps in a row were not finite.
        """
        if self.words.compile == "graphs" and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        parts, skip = self.words.accumulate, self.words.on_nonfinite == "skip"
        keep = skip or self.ranks.count > 1 or self.graph.foreign
        before = [b.clone() for b in self.graph.buffers()] if keep else []
        try:
            values, records, gradients = self._part(step, 0)
            for part in range(1, parts):
                more, _, further = self._part(step, part)
                values = {name: values.get(name, 0) + value for name, value in more.items()}
                gradients = _sum(gradients, further)
            if parts > 1:
                values = {name: value / parts for name, value in values.items()}
                gradients = _scaled(gradients, 1 / parts)
            gradients = self.graph.mean_over_ranks(gradients)
            learned = {t.name: values[t.name] for t in self.graph.terms
                       if t.trains and t.name in values}  # fmt: skip
            held = self.guard.check(step, learned, gradients)
            if skip and self.guard.first() is not None:
                self._put_back(before)
                self._leave_out(step, values)
                return {}
            self._skipped_in_a_row = 0
            self.graph.update(gradients, step, held, step / self.total)
        except (RankLost, PluginFault):
            self._put_back(before)  # batch norms have seen a step that will be taken again
            raise
        return {**values, **records}

    def _part(self, step: int, part: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Gradients]:
        """Values, records and gradients of this rank's share of a part of a step's batch."""
        current = self._share(step, part)
        values, gradients = self.graph.gradients(current)
        if "discriminator" in current.learning:
            accuracy = discriminator_accuracy(current.real_scores, current.fake_scores)
            current.record("discriminator_accuracy", accuracy)
        self.graph.kept.note(current)
        return values, current.records, gradients

    def _share(self, step: int, part: int) -> Step:
        """This rank's share of one of the parts of a step's batch."""
        seed, progress = self.words.seed, step / self.total
        phase = self.session.recipe.tables.schedule.phase(progress)
        generator, discriminator = phase.due(step)
        due = {"generator": generator, "discriminator": discriminator}
        due |= dict.fromkeys(phase.waits, False)
        index = part * self.ranks.count + self.ranks.index
        shard = (index, self.words.accumulate * self.ranks.count)
        real, labels, metadata = self.batches.batch(step, shard)
        unlabelled = self.unlabelled.batch(step, shard)[0] if self.unlabelled else None
        # What draws from PyTorch itself outside of terms and of what they share.
        torch.manual_seed(derive_seed(seed, "step", step, *([index] if index else [])))
        return self.graph.step(
            real,
            labels,
            rng(self.device, seed, "latent", step),
            metadata=metadata,
            unlabelled=unlabelled,
            progress=progress,
            learning=frozenset(n for n in self.graph.optimizers if due.get(n, True)),
            shard=shard,
        )

    # -- steps that are not finite -----------------------------------------------------------------

    def _look(self, done: int, *, surely: bool = False) -> None:
        """Stop if a step was not finite: at once on the CPU, on a GPU before anything is kept.

        A GPU is not waited for in every step. Nothing is learned from that step on meanwhile.
        """
        keeping = any(every and done % every == 0 for every in self._intervals())
        if self.device.type == "cpu" or keeping or surely or done == self.total:
            first = self.guard.first()
            if first is not None:
                self._stop(first)

    def _intervals(self) -> tuple[int, ...]:
        words = self.words
        return words.log_every, words.save_every, words.sample_every, words.evaluate_every

    def _stop(self, step: int) -> None:
        """Take a step that was not finite again, to say what was wrong with it.

        Raises:
            UserError: always.
        """
        for part in range(self.words.accumulate):
            current = self._share(step, part)
            diagnosis = finite.diagnose(self.graph, current)
            if gist := finite.describe(diagnosis):
                break
        folder = self.place.path / "nonfinite" / f"step-{step + 1:08d}"
        if self.ranks.first:
            finite.write_evidence(folder, self.graph, current, diagnosis)
        found = checkpoint.latest(self.place.checkpoints)
        saved = f"the checkpoint of step {found.step} is intact" if found else "none was saved yet"
        raise UserError(
            f"{self.place.path}: step {step + 1}: {gist or self._seen(step)}"
            f". Nothing was learned from it; {saved}. {folder} has the batch and the networks. A "
            "lower learning rate, or a lower weight of that term, may help; "
            '[run] on_nonfinite = "skip" leaves such steps out'
        )

    def _seen(self, step: int) -> str:
        """What was not finite about a step that is when it is taken again."""
        if terms := self.guard.terms(step):
            values = ", ".join(f"the term {name!r} was {v}" for name, v in terms.items())
            named = [self.graph.origin(name) for name in terms]
            made = f" ({', '.join(filter(None, named))})" if any(named) else ""
            return f"{values}{made}, and is finite when the step is taken again"
        return "a gradient is too large"

    def _leave_out(self, step: int, values: dict[str, Tensor]) -> None:
        """Count a step that was not finite and go on.

        Raises:
            UserError: too many in a row were not.
        """
        self.guard.forget()
        self.meter.skipped += 1
        self._skipped_in_a_row += 1
        terms = [name for name, value in values.items() if not math.isfinite(float(value))]
        what = " and ".join(map(repr, terms)) if terms else "a gradient"
        _log.warning("step %d is left out: %s is not finite", step + 1, what)
        if self._skipped_in_a_row == finite.PATIENCE:
            raise UserError(
                f"{self.place.path}: none of the last {finite.PATIENCE} steps was finite, up to "
                f"step {step + 1}, so leaving more out is of no use. Use a lower learning rate, or "
                'a lower weight of the terms that the log names; [run] on_nonfinite = "stop" '
                "keeps what there is to look at"
            )

    def _put_back(self, buffers: list[Tensor]) -> None:
        for buffer, value in zip(self.graph.buffers(), buffers, strict=True):
            buffer.copy_(value)

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
            if self.ranks.count == 1:  # with more, each rank would need its own
                self.meter.restore(found.manifest.log)
        if self.keeper:
            self.keeper.begin(done)
            each = f" on each of {self.ranks.count} ranks" if self.ranks.count > 1 else ""
            _log.info("at step %d of %d, on %s%s", done, self.total, self.device, each)
        return done

    def _rescue(self, done: int) -> str:
        """After another rank ended, save what is whole here; says what there is."""
        if self.device.type == "cpu":  # a GPU may wait for what the lost rank did not send
            if self.keeper:
                self.keeper.save(done, self.meter)
            else:
                self._stand_in(done)
        found = checkpoint.latest(self.place.checkpoints)
        if found is None:
            return "no checkpoint had been written"
        return f"step {found.step} is saved: continue it with --resume"

    def _after(self, fault: PluginFault, start: int, done: int) -> str:
        """After a plugin was at fault, save what is whole here; says what there is."""
        self._look(done, surely=True)
        if self.keeper and done > start and not fault.spoilt:
            self.keeper.save(done, self.meter)
        if found := checkpoint.latest(self.place.checkpoints):
            return f". The run is saved at step {found.step}: continue it with --resume"
        return ". Nothing was trained yet: when the plugin is mended, start again with --resume"

    def _stand_in(self, done: int) -> None:
        """Save for the first rank if that has ended, and its lock with it."""
        try:
            with self.place.locked():
                found = checkpoint.latest(self.place.checkpoints)
                if found is None or found.step < done:
                    checkpoint.save(self.place.checkpoints, done, self.graph, self.words.keep)
        except UserError:
            return  # it lives, and saves by itself


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
