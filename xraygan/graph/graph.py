"""The training graph of a run: its networks, its terms, and the gradients of one step.

A step takes three calls: :meth:`TrainingGraph.step` makes the batch's tensors available,
:meth:`TrainingGraph.gradients` evaluates the terms and differentiates them, and
:meth:`TrainingGraph.update` lets the optimizers step.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xraygan.distributed.ranks import DistributedContext, Gradients, detect_lost_ranks
from xraygan.errors import NoFault, UserError, describe_error
from xraygan.parts import contracts
from xraygan.parts.interfaces import Extractor
from xraygan.parts.part_config import PartConfig
from xraygan.parts.plugin_errors import BadAnswer, PluginFault, is_own, plugin_errors
from xraygan.parts.task import Task
from xraygan.utils.tensors import flattened

from .parameters import trained_parameters, update_ema
from .side_effects import GraphLeakCheck
from .step import TrainingStep
from .streams import Streams
from .terms import Term

_log = logging.getLogger(__name__)

GENERATOR = "generator"
AUGMENTER = "augmenter"
#: kinds of parts that a training step never calls
NOT_IN_STEPS = ("dataset", "metric", "tracker")
#: the networks that have tables of their own; any other belongs to a score
MODELS = (GENERATOR, "discriminator", "classifier", AUGMENTER)

_UNTOUCHED = "A plugin must not call backward(), nor change tensors that autograd needs in place"
_ONCE = (
    "Where several ranks train on GPUs, batch norms of the generator and the classifier cannot be "
    "differentiated twice: train on one GPU, without --devices"
)


class TrainingGraph:
    """The networks of a run and the terms that train them.

    Args:
        task: the image size and the classes.
        networks: networks by name; a score's own network has the score's name.
        extractors: frozen networks by name.
        terms: terms with a weight other than zero.
        optimizers: network -> its optimizer; a network without one is not trained.
        ema_decays: network -> decay of its exponential moving average (EMA), if it has one.
        autocast: makes the context in which networks run (mixed precision).
        ranks: the processes that train it together.
        schedules: network -> function of the progress, in [0, 1), that gives its learning rate as a
            share of its optimizer's initial one.
        prior_steps: network -> steps for which another run trained it, if it starts from one.
        states: parts that are no networks and have buffers, which checkpoints save: scores without
            parameters, a labeler, an objective, by their tables.
        choices: the parts by their tables, for messages that name a plugin at fault.

    Attributes:
        ema: network -> its exponential moving average (EMA).
        has_third_party: whether parts of other distributions are called in steps.
    """

    def __init__(
        self,
        task: Task,
        networks: Mapping[str, Any],
        extractors: Mapping[str, Extractor],
        terms: Iterable[Term],
        optimizers: Mapping[str, torch.optim.Optimizer],
        ema_decays: Mapping[str, float] | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        ranks: DistributedContext | None = None,
        schedules: Mapping[str, Callable[[float], float]] | None = None,
        prior_steps: Mapping[str, int] | None = None,
        states: Mapping[str, nn.Module] | None = None,
        choices: Mapping[str, PartConfig] | None = None,
    ) -> None:
        self.task = task
        self.networks: dict[str, Any] = dict(networks)
        self.extractors = dict(extractors)
        self.terms = list(terms)
        self.optimizers = dict(optimizers)
        self.ema_decays = dict(ema_decays or {})
        self.ema: dict[str, Any] = {
            name: copy.deepcopy(self.networks[name]).requires_grad_(False)
            for name in self.ema_decays
        }
        self.autocast = autocast
        self.ranks = ranks or DistributedContext()
        self.schedules = dict(schedules or {})
        self.prior_steps = dict(prior_steps or {})
        self.states = dict(states or {})
        self.choices = dict(choices or {})
        self._rates = {name: float(o.defaults["lr"]) for name, o in self.optimizers.items()}
        #: network -> the share of it that its average takes on: a tensor where its rate is one
        self._shares: dict[str, float | Tensor] = {}
        self._in_steps = [c for c in self.choices.values() if c.part.kind not in NOT_IN_STEPS]
        self.has_third_party = not all(map(is_own, self._in_steps))
        self.leak_check = GraphLeakCheck(self._in_steps)
        self._checked_terms: set[str] = set()  # those from which a gradient was seen to reach
        self._score_networks = self.networks.keys() - set(MODELS)
        self._term_names = frozenset(term.name for term in self.terms)
        # Where the classifier never sees a real image, only generated ones can set its statistics.
        self._fake_statistics = all(t.name != "classification" for t in self.terms)

    def step(
        self, real: Tensor, labels: Tensor, rng: torch.Generator | Streams, **context: Any
    ) -> TrainingStep:
        """A step over this graph's networks; ``context`` goes to its constructor."""
        return TrainingStep(
            task=self.task,
            networks=self.networks,
            extractors=self.extractors,
            real=real,
            labels=labels,
            rng=rng,
            averages=self.ema,
            autocast=self.autocast,
            ranks=self.ranks,
            fake_statistics=self._fake_statistics,
            choices=self.choices,
            taken=self._term_names,
            **context,
        )

    def gradients(self, step: TrainingStep) -> tuple[dict[str, Tensor], Gradients]:
        """Every term's value, and the gradients of each network that learns in this step.

        A network gets the gradient of the weighted sum of exactly the terms that train it
        (:meth:`differentiate`).

        Returns:
            values: each evaluated term, unweighted, detached, ``()``.
            gradients: network -> one gradient a parameter, None where no term reached it.

        Raises:
            PluginFault: the terms of a plugin cannot be differentiated.
        """
        with self.autocast(), torch.autocast(step.real.device.type, enabled=False):
            # Terms are computed without autocast; networks turn it on for themselves. The outer
            # context keeps the weights that they cast, so each is cast once a step.
            values, losses = self.evaluate(step)
        try:
            with detect_lost_ranks(dist.DistError):  # batch norms hear of other ranks here too
                return values, self.differentiate(step, losses)
        except (UserError, NoFault):
            raise
        except Exception as error:
            if fault := self._gradient_fault(losses, error):
                raise fault from error
            raise

    def _gradient_fault(self, losses: Mapping[str, Tensor], error: Exception) -> PluginFault | None:
        """The message that terms cannot be differentiated, if a plugin may be the reason."""
        terms = [t.choice for t in self.terms if t.name in losses and not is_own(t.choice)]
        suspects = terms or [c for c in self._in_steps if not is_own(c)]
        if not suspects or isinstance(error, torch.OutOfMemoryError):
            return None
        parts = " or ".join(
            f"[{c.table}] (the {c.part.kind} {c.part.name!r} of {c.part.origin})"
            for c in suspects
            if c is not None
        )
        # Batch norms by PyTorch's kernels (FusedBatchNorm) have no derivative of their derivative.
        advice = _ONCE if "batch_norm_backward" in str(error) else _UNTOUCHED
        return PluginFault(
            f"{parts}: the gradient of its value cannot be taken: {describe_error(error)}. {advice}"
        )

    def evaluate(self, step: TrainingStep) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every term's value, detached, and the weighted values that networks learn from.

        Terms that train no network must change nothing. So they are computed last, when the tensors
        that terms share exist already, and the buffers that their passes move are restored.
        """
        values: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        for term in (term for term in self.terms if term.trains):
            if not term.trains & step.learning:
                continue  # its networks wait in this phase of the schedule
            value = self._compute_term(term, step)
            values[term.name] = value.detach()
            if value.requires_grad:
                losses[term.name] = term.weight * value
        for term in (term for term in self.terms if not term.trains):
            with self._buffers_restored():
                values[term.name] = self._compute_term(term, step).detach()
        return {t.name: values[t.name] for t in self.terms if t.name in values}, losses

    def _compute_term(self, term: Term, step: TrainingStep) -> Tensor:
        with (
            self._frozen_except(term),
            step.drawing("term", term.name),
            step.plugin_errors(term.choice, term.method),
        ):
            value = contracts.scalar(term.compute(step), step.real.device)
            if term.choice and not is_own(term.choice):
                step.watch.values.setdefault(term.choice.table, []).append(ref(value))
            unchecked = term.name not in self._checked_terms
            if unchecked and term.trains and term.trains <= step.learning:
                self._check_gradient_reaches(term, value, step)
        return value

    def _check_gradient_reaches(self, term: Term, value: Tensor, step: TrainingStep) -> None:
        """Check, once for each term, that a gradient reaches one of the networks that it trains.

        Raises:
            BadAnswer: none does.
        """
        self._checked_terms.add(term.name)
        if term.choice is None:
            return
        leaves: list[Tensor] = [
            p for n in term.trains for p in trained_parameters(self.networks[n])
        ]
        if "generator" in term.trains:
            leaves.append(step.fake)  # where the generator's graph is cut off
        if not value.requires_grad or not contracts.reaches(value, leaves):
            names = " and ".join(sorted(term.trains))
            raise BadAnswer(
                f"returned a value from which no gradient reaches the {names}, so no network "
                "learns from it. Compute it from the step's tensors of these networks, without "
                "detach() or no_grad(); to log it alone, set trains = []"
            )

    @contextmanager
    def _buffers_restored(self) -> Iterator[None]:
        """Restore the buffers of networks and averages (batch norms, spectral norms) at the end."""
        networks = (*self.networks.values(), *self.ema.values())
        before = [buffer.clone() for network in networks for buffer in network.buffers()]
        yield
        after = [buffer for network in networks for buffer in network.buffers()]
        for buffer, value in zip(after, before, strict=True):
            buffer.data.copy_(value)  # past autograd, which still needs them for the backward pass

    def buffers(self) -> list[Tensor]:
        """All tensors that change without an optimizer, such as running statistics."""
        every = (*self.networks.values(), *self.ema.values(), *self.states.values())
        return [buffer for network in every for buffer in network.buffers()]

    # -- gradients ---------------------------------------------------------------------------------
    # Each network learns from its own set of terms, so one backward pass from the sum of all terms
    # would be wrong, and one pass for each pair of term and network would be slow. Instead:
    #
    # 1. Networks that learn from the same terms share one backward pass (_backward_passes).
    # 2. step.fake is a leaf, cut off from the generator: a pass that trains the generator ends
    #    there, and a pass that does not never goes through the generator.
    # 3. The gradient with respect to step.fake then goes through the generator once.

    def differentiate(
        self, step: TrainingStep, losses: Mapping[str, Tensor], *, keep: bool = False
    ) -> Gradients:
        """The gradients of each network that learns in this step, from weighted terms.

        Args:
            losses: term -> its weighted value; terms that are not among them do not count.
            keep: keep the autograd graph, to differentiate it again.

        Returns:
            network -> one gradient a parameter, None where no term reached it.
        """
        parameters = {
            n: trained_parameters(self.networks[n]) for n in self.optimizers if n in step.learning
        }
        gradients: Gradients = {name: [None] * len(own) for name, own in parameters.items()}
        row: list[Tensor | None]
        fake_gradient: Tensor | None = None
        passes = self._backward_passes(losses, parameters)
        for i, (terms, names) in enumerate(passes):
            targets = [p for name in names for p in parameters[name]]
            through_fake = GENERATOR in names and step.fake.requires_grad
            row = list(
                torch.autograd.grad(
                    torch.stack([losses[name] for name in terms]).sum(),
                    [*targets, *([step.fake] if through_fake else [])],
                    retain_graph=keep or i + 1 < len(passes),
                    allow_unused=True,
                )
            )
            if through_fake:
                fake_gradient = row.pop()
            for name in names:
                count = len(parameters[name])
                gradients[name], row = row[:count], row[count:]
        if fake_gradient is not None:
            through_generator = torch.autograd.grad(
                step.generated,
                parameters[GENERATOR],
                grad_outputs=fake_gradient,
                retain_graph=keep,
                allow_unused=True,
            )
            # A term may reach the generator's parameters past its images, too.
            gradients[GENERATOR] = [
                _plus(a, b) for a, b in zip(gradients[GENERATOR], through_generator, strict=True)
            ]
        return gradients

    def _backward_passes(
        self, evaluated: Iterable[str], learning: Iterable[str]
    ) -> list[tuple[list[str], list[str]]]:
        """The backward passes of a step: the terms that each sums up, and the networks whose
        gradients it gives.

        Networks that learn from the same terms share a pass. So does a score's own network with one
        that learns from all of its terms and more: the further terms cannot reach a score's own
        network (:meth:`_frozen_except`), so its gradients stay the same, and one pass less goes
        through the loss network behind both.
        """
        passes: dict[tuple[str, ...], list[str]] = {}
        for name in sorted(learning, key=lambda name: name in self._score_networks):
            terms = tuple(t.name for t in self.terms if name in t.trains and t.name in evaluated)
            if name in self._score_networks:
                terms = next((more for more in passes if set(terms) <= set(more)), terms)
            if terms:
                passes.setdefault(terms, []).append(name)
        return [(list(terms), names) for terms, names in passes.items()]

    @contextmanager
    def _frozen_except(self, term: Term) -> Iterator[None]:
        """Within it, the networks of scores are frozen, except those that the term trains."""
        frozen = self._score_networks - term.trains
        others = [p for n in frozen for p in trained_parameters(self.networks[n])]
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def describe_term_origin(self, name: str) -> str:
        """The plugin that computes a term, with its distribution; empty for a built-in one."""
        for term in self.terms:
            if term.name == name and term.choice and not term.choice.part.is_own:
                part = term.choice.part
                return f"the {part.kind} {part.name!r} of {part.origin}"
        return ""

    def trained(self, name: str) -> Any:
        """The network that samples and evaluations use: its moving average, if it has one."""
        return self.ema.get(name, self.networks[name])

    def mean_over_ranks(self, gradients: Gradients) -> Gradients:
        """The mean of the ranks' gradients.

        Raises:
            RankFailed: another rank ended.
        """
        parameters = {name: trained_parameters(self.networks[name]) for name in gradients}
        return self.ranks.average_gradients(gradients, parameters)

    # -- the update --------------------------------------------------------------------------------

    def update(
        self,
        gradients: Gradients,
        step: int,
        found_inf: Tensor | None = None,
        progress: float = 0.0,
    ) -> None:
        """Let the augmenter adapt, each network's optimizer step, and the moving averages follow.

        Args:
            step: steps done before this one.
            found_inf: as :meth:`apply` has it.
            progress: how much of the run is done, in [0, 1), for learning rates that change.
        """
        self.prepare(step, progress)
        self.apply(gradients, found_inf)

    def prepare(self, step: int, progress: float) -> None:
        """Set what an update takes from the number of its step: rates of learning and of averages.

        On a GPU they are tensors, so that :meth:`apply` is the same in every step.

        Args:
            step: steps done before this one. An average forgets faster in the first steps
                (decay at most 1 - 1 / (step + 1), as Tarvainen and Valpola have it), so that the
                initial weights do not linger; steps of another run that it started from count.
            progress: as :meth:`update` has it.
        """
        for name, factor in self.schedules.items():  # waiting networks too, for the log
            group = self.optimizers[name].param_groups[0]
            group["lr"] = self._set(group["lr"], self._rates[name] * factor(progress))
        for name, decay in self.ema_decays.items():
            steps = self.prior_steps.get(name, 0) + step
            share = 1 - min(decay, 1 - 1 / (steps + 1))
            before = self._shares.get(name)
            if before is None and isinstance(self.optimizers[name].param_groups[0]["lr"], Tensor):
                before = torch.zeros_like(self.optimizers[name].param_groups[0]["lr"])
            self._shares[name] = self._set(before, share)

    @staticmethod
    def _set(target: float | Tensor | None, value: float) -> float | Tensor:
        return target.fill_(value) if isinstance(target, Tensor) else value

    def learning_rates(self) -> dict[str, float]:
        """Network -> its current learning rate; waits for a GPU."""
        return {name: float(o.param_groups[0]["lr"]) for name, o in self.optimizers.items()}

    def apply(self, gradients: Gradients, found_inf: Tensor | None = None) -> None:
        """Let the augmenter adapt, each network's optimizer step, and the moving averages follow,
        after :meth:`prepare`.

        Args:
            found_inf: ``()`` float32 on the device; if it is 1, no parameter and no state of an
                optimizer changes. The fused optimizers read it there, without waiting for a GPU.
        """
        if AUGMENTER in self.networks:  # first: if it fails, no network has changed yet
            with plugin_errors(self.choices.get(AUGMENTER), "adapt()"):
                self.networks[AUGMENTER].adapt(found_inf)
        for name, own_gradients in gradients.items():
            optimizer, parameters = self.optimizers[name], trained_parameters(self.networks[name])
            rows = optimizer.param_groups[0]["params"]
            for row, parameter, gradient in zip(rows, parameters, own_gradients, strict=True):
                if row.data_ptr() != parameter.data_ptr():  # the network was moved, or widened
                    row.data = flattened(parameter.data, parameter)
                row.grad = None if gradient is None else flattened(gradient, parameter)
            if found_inf is not None:
                optimizer.found_inf = found_inf  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, share in self._shares.items():
            if name in gradients:
                update_ema(self.ema[name], self.networks[name], share)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
