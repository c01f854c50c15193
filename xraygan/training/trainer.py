"""The training loop: the steps of a run, its schedule, and what is saved when it ends early."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from xraygan.distributed.ranks import DistributedContext, Gradients, RankFailed
from xraygan.errors import UserError
from xraygan.graph.parameters import copies, copy_each
from xraygan.graph.step import TrainingStep
from xraygan.graph.streams import Streams
from xraygan.parts.interfaces import Augmenter
from xraygan.parts.plugin_errors import PluginFault
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.utils.precision import flushed_denormals
from xraygan.utils.progress import Display
from xraygan.utils.signals import Interrupted, record_signals

from . import nonfinite
from .callbacks import Callbacks, MetricAccumulator
from .capture import CapturedSteps, Taken
from .collapse_monitor import discriminator_accuracy
from .step_source import StepSource

#: the name under which a step that is captured gives what the guard remembers
_CHECKED = "checked by the guard"

_log = logging.getLogger(__name__)


class Trainer:
    """The training loop of one run, as one of its ranks executes it.

    Raises:
        UserError: the batch cannot be shared equally by the ranks and micro-batches.
    """

    def __init__(
        self,
        session: Session,
        run_dir: RunDirectory,
        display: Display,
        ranks: DistributedContext | None = None,
    ) -> None:
        self.config = session.recipe.tables.run
        self.session = session
        self.run_dir = run_dir
        self.display = display
        self.ranks = ranks or DistributedContext()
        self.graph = session.graph
        self.device = session.device
        train = session.data.splits["train"]
        self.total = self.config.total(len(train) // self.config.batch_size)
        self.source = StepSource(session, self.total, self.ranks)
        self.guard = nonfinite.NonFiniteGuard(self.device, self.ranks)
        self.meter = MetricAccumulator(self.config.batch_size)
        self._number = torch.zeros((), dtype=torch.int64, device=self.device)
        self._elapsed = torch.zeros((), dtype=torch.float64, device=self.device)
        self._saved: list[Tensor] = []
        self._skipped_in_a_row = 0
        self._compile()
        self.captured = self._captured_steps()
        self.callbacks = Callbacks(session, run_dir, self.total) if self.ranks.first else None

    def _compile(self) -> None:
        if self.config.compile == "default":
            for network in (*self.graph.networks.values(), *self.graph.extractors.values()):
                if not isinstance(network, Augmenter):  # which draws random numbers from the step
                    network.compile()

    def _captured_steps(self) -> CapturedSteps | None:
        """What captures steps as CUDA graphs, if they are to be; the log says what prevents it."""
        if self.config.compile != "graphs" or self.device.type != "cuda":
            return None
        reasons = {
            "a batch is computed in parts ([run] accumulate)": self.config.accumulate > 1,
            'steps may be skipped ([run] on_nonfinite = "skip")': self._may_skip,
            "several ranks train together": self.ranks.count > 1,
        }
        if any(reasons.values()):
            _log.warning(
                '[run] compile = "graphs": steps are not captured as a CUDA graph, since %s',
                " and ".join(reason for reason, holds in reasons.items() if holds),
            )
            return None
        return CapturedSteps(self.device, list(self.graph.optimizers.values()))

    @property
    def _may_skip(self) -> bool:
        return self.config.on_nonfinite == "skip"

    def run(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            Interrupted: a signal came; the current step was completed and saved.
            RankFailed: another rank ended; the message names the step that is saved.
            UserError: a term or gradient became non-finite, or a plugin is at fault; the message
                names the checkpoint to continue from.
        """
        start = done = self._load_latest()
        with (
            record_signals() as caught,
            self.display.training(self.total, done=start) as show,
            flushed_denormals(),
        ):
            try:
                for step in range(start, self.total):
                    self.meter.update(self.step(step))
                    done = step + 1
                    self._check_finite(done)
                    if done % self.config.log_every == 0 or done == self.total:
                        show(done, self._log(done), self._notes(step))
                    if self.callbacks:
                        self.callbacks.on_step_end(done, self.meter)
                    # A signal reaches the ranks at different times: all stop after the same step.
                    [signal] = self.ranks.largest(caught[0] if caught else 0)
                    if signal:
                        self._check_finite(done, wait=True)
                        if self.callbacks:
                            self.callbacks.save(done, self.meter)
                        raise Interrupted(signal)
                self.ranks.wait()
            except PluginFault as fault:
                saved = self._save_after_plugin_fault(fault, start, done)
                raise UserError(f"{fault}{saved}") from fault
            except RankFailed as lost:
                raise RankFailed(f"{lost}); {self._save_on_failure(done)}") from lost

    def _log(self, done: int) -> dict[str, float]:
        """Log the metrics since the last line, averaged over ranks; returns those to display."""
        metrics = self.meter.compute()
        metrics = replace(metrics, values=self.ranks.average(metrics.values))
        if self.callbacks:
            self.callbacks.log(done, metrics)
        return {**metrics.values, "images/s": metrics.images_per_second}

    def _notes(self, step: int) -> list[str]:
        """The text that the display shows beside the metrics: the phase, if the schedule has
        several, and the newest sample."""
        phases = self.session.recipe.tables.schedule.phases
        phase = self.session.recipe.tables.schedule.phase(step / self.total)
        waits = f", {' and '.join(phase.waits)} waiting" if phase.waits else ""
        current = f"phase {phases.index(phase) + 1} of {len(phases)} ({phase.ratio}{waits})"
        notes = [current] if len(phases) > 1 else []
        if self.callbacks and self.callbacks.newest_sample:
            notes.append(f"sample {self.callbacks.newest_sample}")
        return notes

    def step(self, step: int) -> dict[str, Tensor]:
        """Take training step 0, 1, 2, ...

        Gradients are averaged over micro-batches (``[run] accumulate``) and over ranks, then
        checked, and only then does any optimizer use them. A forward pass has moved running
        statistics (batch norm) by then, so where a step may be abandoned they are saved before it
        and restored.

        Returns:
            Every term's value and what parts recorded, ``()`` each; empty if the step was skipped
            because it was not finite.

        Raises:
            RankFailed: another rank ended; the step was not taken.
            UserError: too many steps in a row were not finite.
        """
        if self.captured:
            return self._captured_step(step, self.captured)
        count, skip = self.config.accumulate, self._may_skip
        restorable = skip or self.ranks.count > 1 or self.graph.has_third_party
        buffers = self._save_buffers() if restorable else None
        try:
            values, records, gradients = self._micro_batch_gradients(step, 0)
            for index in range(1, count):
                more_values, _, more_gradients = self._micro_batch_gradients(step, index)
                values = {name: values.get(name, 0) + v for name, v in more_values.items()}
                gradients = _sum(gradients, more_gradients)
            if count > 1:
                values = {name: value / count for name, value in values.items()}
                gradients = _scaled(gradients, 1 / count)
            gradients = self.graph.mean_over_ranks(gradients)
            found_inf = self.guard.update(step, self._trained_terms(values), gradients)
            if skip and self.guard.first() is not None:
                self._restore_buffers(buffers)
                self._skip_step(step, values)
                return {}
            self._skipped_in_a_row = 0
            self.graph.update(gradients, step, found_inf, step / self.total)
        except (RankFailed, PluginFault):
            self._restore_buffers(buffers)  # the step will be taken again
            raise
        return {**values, **records}

    def _trained_terms(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the terms from which networks learn."""
        terms = [term.name for term in self.graph.terms if term.trains]
        return {name: values[name] for name in terms if name in values}

    def _captured_step(self, step: int, captured: CapturedSteps) -> dict[str, Tensor]:
        """:meth:`step` of one micro-batch on one GPU, replayed as soon as it is captured."""
        progress, learning = step / self.total, self.source.learning(step)
        self.graph.prepare(step, progress)
        self._number.fill_(step)
        self._elapsed.fill_(progress)
        self.source.seed_global_stream(step)
        drawn = self.source.draw(step)
        given = [tensor for one in drawn for tensor in one.tensors()]

        def take(inputs: Sequence[Tensor], streams: Streams) -> Taken:
            left = iter(inputs)
            own = [one.of(left) for one in drawn]
            current = self.source.step_of(own, streams, progress, learning, elapsed=self._elapsed)
            values, records, gradients = self._gradients_of(current)
            row = self.guard.check(self._number, self._trained_terms(values), gradients)
            self.graph.apply(gradients, self.guard.found_inf)
            readers = sorted(current.progress_readers)
            bound = [f"[{table}] follows the run's progress" for table in readers]
            return Taken({**values, **records, _CHECKED: row}, bound)

        fragile = self.graph.has_third_party and not captured.is_replayed(learning)
        buffers = self._save_buffers() if fragile else None
        try:
            values = captured.take(learning, given, self.source.streams_seed(step), take)
        except PluginFault:
            self._restore_buffers(buffers)
            raise
        row = values.pop(_CHECKED)
        self.guard.keep(step, list(self._trained_terms(values)), row)
        return values

    def _micro_batch_gradients(
        self, step: int, index: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Gradients]:
        """Values, records and gradients of this rank's rows of one micro-batch of a step."""
        return self._gradients_of(self.source.build(step, index))

    def _gradients_of(
        self, current: TrainingStep
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Gradients]:
        values, gradients = self.graph.gradients(current)
        if "discriminator" in current.learning:
            accuracy = discriminator_accuracy(current.real_scores, current.fake_scores)
            current.record("discriminator_accuracy", accuracy)
        self.graph.leak_check.observe(current, current.watch.values)
        return values, current.records, gradients

    # -- steps that are not finite -----------------------------------------------------------------
    # The guard records on the device whether a step was finite, and from the first step that was
    # not, optimizers change nothing. So the loop need not wait for a GPU in every step: it asks the
    # guard before anything is logged or saved, and by then no network has learned from a bad step.

    def _check_finite(self, done: int, *, wait: bool = False) -> None:
        """Stop the run if a step was not finite.

        On the CPU every step is checked. On a GPU only those after which something is logged,
        sampled, evaluated or saved are.

        Args:
            wait: wait for the device and check in any case.

        Raises:
            UserError: a step was not finite.
        """
        due = any(every and done % every == 0 for every in self._intervals())
        if self.device.type == "cpu" or due or wait or done == self.total:
            first = self.guard.first()
            if first is not None:
                self._stop(first)

    def _intervals(self) -> tuple[int, ...]:
        config = self.config
        return config.log_every, config.save_every, config.sample_every, config.evaluate_every

    def _stop(self, step: int) -> None:
        """Compute a step that was not finite again, diagnose it, and stop the run.

        Raises:
            UserError: always.
        """
        for index in range(self.config.accumulate):
            current = self.source.build(step, index)
            diagnosis = nonfinite.diagnose(self.graph, current)
            if reason := nonfinite.describe_diagnosis(diagnosis):
                break
        folder = self.run_dir.path / "nonfinite" / f"step-{step + 1:08d}"
        if self.ranks.first:
            nonfinite.write_evidence(folder, self.graph, current, diagnosis)
        last = checkpoint.latest(self.run_dir.checkpoints)
        saved = f"the checkpoint of step {last.step} is intact" if last else "none was saved yet"
        raise UserError(
            f"{self.run_dir.path}: step {step + 1}: {reason or self._describe_unrepeated(step)}"
            f". No network was changed by it; {saved}. {folder} has the batch and the networks. A "
            "lower learning rate, or a lower weight of that term, may help; "
            '[run] on_nonfinite = "skip" skips such steps'
        )

    def _describe_unrepeated(self, step: int) -> str:
        """What the guard saw in a step that is finite when it is computed again."""
        if terms := self.guard.terms(step):
            values = ", ".join(f"the term {name!r} was {v}" for name, v in terms.items())
            origins = [self.graph.describe_term_origin(name) for name in terms]
            source = f" ({', '.join(filter(None, origins))})" if any(origins) else ""
            return f"{values}{source}, and is finite when the step is computed again"
        return "a gradient is too large"

    def _skip_step(self, step: int, values: dict[str, Tensor]) -> None:
        """Count a step that was not finite, and let training continue.

        Raises:
            UserError: too many steps in a row were not finite.
        """
        self.guard.reset()
        self.meter.skipped += 1
        self._skipped_in_a_row += 1
        terms = [name for name, value in values.items() if not math.isfinite(float(value))]
        source = " and ".join(map(repr, terms)) if terms else "a gradient"
        _log.warning("step %d is skipped: %s is not finite", step + 1, source)
        if self._skipped_in_a_row == nonfinite.MAX_SKIPPED:
            raise UserError(
                f"{self.run_dir.path}: none of the last {nonfinite.MAX_SKIPPED} steps was finite, "
                f"up to step {step + 1}, so skipping more steps would not help. Use a lower "
                "learning rate, or a lower weight of the terms that the log names; "
                '[run] on_nonfinite = "stop" saves the batch and the networks for inspection'
            )

    def _save_buffers(self) -> list[Tensor]:
        """The buffers as they are, in tensors that are kept: no step allocates them anew."""
        self._saved = copies(self.graph.buffers(), self._saved)
        return self._saved

    def _restore_buffers(self, saved: list[Tensor] | None) -> None:
        if saved is None:  # of a step that was not expected to be abandoned
            return
        copy_each(self.graph.buffers(), saved)

    # -- resuming, and saving when the run ends early ----------------------------------------------

    def _load_latest(self) -> int:
        """Restore the newest checkpoint, if there is one; returns the number of steps done.

        A checkpoint has all that cannot be recomputed: networks, averages, optimizers, buffers, and
        the sums of the metrics since the last logged line. Batches and random numbers follow from
        the seed and the step, so a resumed run gives bit-identical results.

        Raises:
            UserError: the ranks see different checkpoints, or one does not fit the networks.
        """
        last = checkpoint.latest(self.run_dir.checkpoints)
        done = 0 if last is None else last.step
        if self.ranks.largest(done) != [done] or self.ranks.largest(-done) != [-done]:
            raise UserError(
                f"{self.run_dir.checkpoints}: the ranks do not see the same checkpoints; the run "
                "directory must be on a disk that all of them share"
            )
        if last is not None:
            last.load(self.graph)
            if self.ranks.count == 1:  # with more, each rank would need its own
                self.meter.restore(last.manifest.log)
        if self.callbacks:
            self.callbacks.on_train_start(done)
            each = f" on each of {self.ranks.count} ranks" if self.ranks.count > 1 else ""
            _log.info("at step %d of %d, on %s%s", done, self.total, self.device, each)
        return done

    def _save_on_failure(self, done: int) -> str:
        """Save the completed steps after another rank ended; returns a clause on what is saved."""
        if self.device.type == "cpu":  # a GPU may wait for what the lost rank did not send
            if self.callbacks:
                self.callbacks.save(done, self.meter)
            else:
                self._save_for_first_rank(done)
        last = checkpoint.latest(self.run_dir.checkpoints)
        if last is None:
            return "no checkpoint had been written"
        return f"step {last.step} is saved: continue it with --resume"

    def _save_for_first_rank(self, done: int) -> None:
        """Save in place of the first rank if that has ended, which releases its lock."""
        try:
            with self.run_dir.locked():
                last = checkpoint.latest(self.run_dir.checkpoints)
                if last is None or last.step < done:
                    checkpoint.save(self.run_dir.checkpoints, done, self.graph, self.config.keep)
        except UserError:
            return  # the first rank is alive, and saves by itself

    def _save_after_plugin_fault(self, fault: PluginFault, start: int, done: int) -> str:
        """Save the completed steps after a plugin failed, unless it has changed the networks.

        Returns:
            The end of the message: what is saved and how to continue.
        """
        self._check_finite(done, wait=True)
        if self.callbacks and done > start and not fault.spoilt:
            self.callbacks.save(done, self.meter)
        if last := checkpoint.latest(self.run_dir.checkpoints):
            return f". The run is saved at step {last.step}: continue it with --resume"
        return ". Nothing was trained yet: fix the plugin and start again with --resume"


def _sum(a: Gradients, b: Gradients) -> Gradients:
    """The sum of two sets of gradients, None where neither has one."""
    return {
        name: [
            y if x is None else x if y is None else x + y
            for x, y in zip(gradients, b[name], strict=True)
        ]
        for name, gradients in a.items()
    }


def _scaled(gradients: Gradients, factor: float) -> Gradients:
    return {
        name: [None if gradient is None else gradient * factor for gradient in row]
        for name, row in gradients.items()
    }
