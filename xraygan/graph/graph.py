"""A training graph: networks, optimizers, terms, and who learns from each."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from xraygan.distributed.ranks import Gradients, Ranks
from xraygan.errors import NoFault, UserError, describe_error
from xraygan.parts import contracts as answers
from xraygan.parts.choice import Choice
from xraygan.parts.interfaces import Extractor
from xraygan.parts.plugin_errors import BadAnswer, PluginFault, asking, is_own
from xraygan.parts.task import Task

from .step import TrainingStep
from .watching import Kept

_log = logging.getLogger(__name__)

GENERATOR = "generator"
AUGMENTER = "augmenter"
#: kinds of parts that take no part in steps
APART = ("dataset", "metric", "tracker")
#: the networks that have tables of their own; others are a score's own
MODELS = (GENERATOR, "discriminator", "classifier", AUGMENTER)


@dataclass(frozen=True)
class Term:
    """A function of the step, its weight, and its audience: the networks that learn from it.

    A term without an audience is computed for the log alone.

    Attributes:
        choice: the part that computes it, and ``method`` what it is asked for.
    """

    name: str
    compute: Callable[[TrainingStep], Tensor]
    weight: float
    trains: frozenset[str]
    choice: Choice | None = None
    method: str = "forward()"


class TrainingGraph:
    """The networks of a run and the terms that train them.

    Args:
        task: the image size and the classes.
        networks: networks by name; what a score brings is a network with the score's name.
        extractors: frozen networks by name.
        terms: terms with a weight other than zero.
        optimizers: one optimizer a network; those without one are not trained.
        decays: network -> decay of an exponential average that is kept of it.
        autocast: makes the context in which networks run (mixed precision).
        ranks: the processes that train it together.
        schedules: network -> its learning rate as a share of its optimizer's own, at a progress.
        ages: network -> steps that it was trained for before this run, in another one.
        states: parts that are no networks and have buffers, which checkpoints save: scores without
            parameters, a labeler, an objective, by their tables.
        choices: the parts by their tables, so that messages name a plugin which is at fault.
    """

    def __init__(
        self,
        task: Task,
        networks: Mapping[str, Any],
        extractors: Mapping[str, Extractor],
        terms: Iterable[Term],
        optimizers: Mapping[str, torch.optim.Optimizer],
        decays: Mapping[str, float] | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        ranks: Ranks | None = None,
        schedules: Mapping[str, Callable[[float], float]] | None = None,
        ages: Mapping[str, int] | None = None,
        states: Mapping[str, nn.Module] | None = None,
        choices: Mapping[str, Choice] | None = None,
    ) -> None:
        self.task = task
        self.networks: dict[str, Any] = dict(networks)
        self.extractors = dict(extractors)
        self.terms = list(terms)
        self.optimizers = dict(optimizers)
        self.decays = dict(decays or {})
        self.averages: dict[str, Any] = {
            name: copy.deepcopy(self.networks[name]).requires_grad_(False) for name in self.decays
        }
        self.autocast = autocast
        self.ranks = ranks or Ranks()
        self.schedules = dict(schedules or {})
        self.ages = dict(ages or {})
        self.states = dict(states or {})
        self.choices = dict(choices or {})
        taking_part = [c for c in self.choices.values() if c.part.kind not in APART]
        #: whether parts of other distributions take part in steps
        self.foreign = not all(map(is_own, taking_part))
        self.kept = Kept(taking_part)
        self._proven: set[str] = set()  # terms of which a network is known to learn
        self._own = self.networks.keys() - set(MODELS)
        self._names = frozenset(term.name for term in self.terms)
        # Where the classifier never sees a real image, only generated ones can set its statistics.
        self._fake_statistics = all(t.name != "classification" for t in self.terms)

    def step(
        self, real: Tensor, labels: Tensor, rng: torch.Generator, **context: Any
    ) -> TrainingStep:
        """A step over this graph's networks; ``context`` goes to its constructor."""
        return TrainingStep(
            task=self.task,
            networks=self.networks,
            extractors=self.extractors,
            real=real,
            labels=labels,
            rng=rng,
            averages=self.averages,
            autocast=self.autocast,
            ranks=self.ranks,
            fake_statistics=self._fake_statistics,
            choices=self.choices,
            taken=self._names,
            **context,
        )

    def gradients(self, step: TrainingStep) -> tuple[dict[str, Tensor], Gradients]:
        """Every term's value, and what each network that learns in this step learns from them.

        A network gets the gradient of the weighted sum of exactly the terms that train it; see
        :meth:`_passes` for what is differentiated together. What reaches the generated images is
        gathered there and goes through the generator once.

        Returns:
            values: each evaluated term, unweighted, detached.
            gradients: network -> one gradient a parameter, None where nothing reached it.
        """
        with self.autocast(), torch.autocast(step.real.device.type, enabled=False):
            # Networks turn it on again, for themselves; the outer one keeps the weights that they
            # cast, so that each is cast once a step.
            values, losses = self.evaluate(step)
        try:
            return values, self.differentiate(step, losses)
        except (UserError, NoFault):
            raise
        except Exception as error:
            if fault := self._blamed(losses, error):
                raise fault from error
            raise

    def _blamed(self, losses: Mapping[str, Tensor], error: Exception) -> PluginFault | None:
        """What says that terms cannot be differentiated, if a plugin may be why."""
        terms = [t.choice for t in self.terms if t.name in losses and not is_own(t.choice)]
        tables = [c for c in self.choices.values() if c.part.kind not in APART]
        suspects = terms or [c for c in tables if not is_own(c)]
        if not suspects or isinstance(error, torch.OutOfMemoryError):
            return None
        named = " or ".join(
            f"[{c.table}] (the {c.part.kind} {c.part.name!r} of {c.part.origin})"
            for c in suspects
            if c is not None
        )
        return PluginFault(
            f"{named}: the gradient of what it computes cannot be taken: {describe_error(error)}. "
            "A plugin must not call backward(), nor change tensors that autograd needs in place"
        )

    def evaluate(self, step: TrainingStep) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every term's value, detached, and the weighted ones that somebody learns from.

        Terms without an audience change nothing: they are computed last, so that no shared tensor
        is computed earlier for them, and what their passes leave in networks is put back.
        """
        values: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        for term in (term for term in self.terms if term.trains):
            audience = term.trains & step.learning
            if not audience:
                continue  # its networks wait in this phase of the schedule
            value = self._computed(term, step)
            values[term.name] = value.detach()
            if value.requires_grad:
                losses[term.name] = term.weight * value
        for term in (term for term in self.terms if not term.trains):
            with self._unmoved():
                values[term.name] = self._computed(term, step).detach()
        return {t.name: values[t.name] for t in self.terms if t.name in values}, losses

    def _computed(self, term: Term, step: TrainingStep) -> Tensor:
        with (
            self._shielded(term),
            step.drawing("term", term.name),
            step.asking(term.choice, term.method),
        ):
            value = answers.scalar(term.compute(step), step.real.device)
            if term.choice and not is_own(term.choice):
                step.watch.values.setdefault(term.choice.table, []).append(ref(value))
            if term.name not in self._proven and term.trains and term.trains <= step.learning:
                self._prove(term, value, step)
        return value

    def _prove(self, term: Term, value: Tensor, step: TrainingStep) -> None:
        """Hold, where all its networks learn for the first time, that one learns from a term."""
        self._proven.add(term.name)
        if term.choice is None:
            return
        leaves: list[Tensor] = [
            p for n in term.trains for p in trained_parameters(self.networks[n])
        ]
        if "generator" in term.trains:
            leaves.append(step.fake)  # where the generator's graph is cut off
        if not value.requires_grad or not answers.reaches(value, leaves):
            names = " and ".join(sorted(term.trains))
            raise BadAnswer(
                f"returned a value from which no gradient reaches the {names}, so nobody learns "
                "from it. Compute it from what the step has of these networks, without detach() or "
                "no_grad(); to log it alone, set trains = []"
            )

    @contextmanager
    def _unmoved(self) -> Iterator[None]:
        """Within it, the buffers of networks and averages (batch norms, spectral norms) may move;
        then they are as before."""
        networks = (*self.networks.values(), *self.averages.values())
        before = [buffer.clone() for network in networks for buffer in network.buffers()]
        yield
        after = [buffer for network in networks for buffer in network.buffers()]
        for buffer, value in zip(after, before, strict=True):
            buffer.data.copy_(value)  # not through autograd: it has what the backward pass needs

    def buffers(self) -> list[Tensor]:
        """What moves without an optimizer, such as running statistics."""
        every = (*self.networks.values(), *self.averages.values(), *self.states.values())
        return [buffer for network in every for buffer in network.buffers()]

    def differentiate(
        self, step: TrainingStep, losses: Mapping[str, Tensor], *, keep: bool = False
    ) -> Gradients:
        """What each network that learns in this step learns from some of its weighted terms.

        Args:
            keep: leave the step's graph as it is, to be gone through again.
        """
        parameters = {
            n: trained_parameters(self.networks[n]) for n in self.optimizers if n in step.learning
        }
        gradients: Gradients = {name: [None] * len(own) for name, own in parameters.items()}
        found: list[Tensor | None]
        reached: Tensor | None = None
        passes = self._passes(losses, parameters)
        for i, (terms, names) in enumerate(passes):
            targets = [p for name in names for p in parameters[name]]
            through_fake = GENERATOR in names and step.fake.requires_grad
            found = list(
                torch.autograd.grad(
                    torch.stack([losses[name] for name in terms]).sum(),
                    [*targets, *([step.fake] if through_fake else [])],
                    retain_graph=keep or i + 1 < len(passes),
                    allow_unused=True,
                )
            )
            if through_fake:
                reached = found.pop()
            for name in names:
                count = len(parameters[name])
                gradients[name], found = found[:count], found[count:]
        if reached is not None:
            through = torch.autograd.grad(
                step.generated,
                parameters[GENERATOR],
                grad_outputs=reached,
                retain_graph=keep,
                allow_unused=True,
            )
            gradients[GENERATOR] = [
                _plus(a, b) for a, b in zip(gradients[GENERATOR], through, strict=True)
            ]
        return gradients

    def _passes(
        self, evaluated: Iterable[str], learning: Iterable[str]
    ) -> list[tuple[list[str], list[str]]]:
        """Which terms are differentiated together, towards which networks' parameters.

        Networks that the same terms train share a backward pass. So does a score's own network with
        one that all of its terms train too: no other term reaches it (:meth:`_shielded`), so more
        terms change nothing, and the loss network behind both is gone through once.
        """
        passes: dict[tuple[str, ...], list[str]] = {}
        for name in sorted(learning, key=lambda name: name in self._own):
            terms = tuple(t.name for t in self.terms if name in t.trains and t.name in evaluated)
            if name in self._own:
                terms = next((more for more in passes if set(terms) <= set(more)), terms)
            if terms:
                passes.setdefault(terms, []).append(name)
        return [(list(terms), names) for terms, names in passes.items()]

    @contextmanager
    def _shielded(self, term: Term) -> Iterator[None]:
        """Within it, networks that scores brought and that the term does not train are frozen."""
        others = [p for n in self._own - term.trains for p in trained_parameters(self.networks[n])]
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def origin(self, term: str) -> str:
        """Which part of another distribution computes a term; empty for our own."""
        for known in self.terms:
            if known.name == term and known.choice and not known.choice.part.is_own:
                part = known.choice.part
                return f"the {part.kind} {part.name!r} of {part.origin}"
        return ""

    def trained(self, name: str) -> Any:
        """What stands for a network in samples and evaluations: its average, if one is kept."""
        return self.averages.get(name, self.networks[name])

    def mean_over_ranks(self, gradients: Gradients) -> Gradients:
        """The mean of the ranks' gradients.

        Raises:
            RankLost: another rank ended.
        """
        parameters = {name: trained_parameters(self.networks[name]) for name in gradients}
        return self.ranks.average_gradients(gradients, parameters)

    def update(
        self,
        gradients: Gradients,
        step: int,
        held: Tensor | None = None,
        progress: float = 0.0,
    ) -> None:
        """Let the augmenter adapt and each network's optimizer take one step with its gradients,
        then follow with the averages.

        Args:
            step: steps done before this one. An average forgets faster in the first steps
                (decay at most 1 - 1 / (step + 1), as Tarvainen and Valpola have it), so that the
                initial weights do not linger; steps of another run that it started from count.
            held: ``()`` float32; where it is 1, no parameter and no optimizer changes, and the
                device need not be waited for to know it.
            progress: how much of the run is done, in [0, 1), for learning rates that change.
        """
        for name, factor in self.schedules.items():  # waiting networks too, for the log
            optimizer = self.optimizers[name]
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * factor(progress)
        if AUGMENTER in self.networks:  # first: it may be at fault, and nobody has learned yet
            with asking(self.choices.get(AUGMENTER), "adapt()"):
                self.networks[AUGMENTER].adapt(held)
        for name, found in gradients.items():
            optimizer, parameters = self.optimizers[name], trained_parameters(self.networks[name])
            rows = optimizer.param_groups[0]["params"]
            for row, parameter, gradient in zip(rows, parameters, found, strict=True):
                if row.data_ptr() != parameter.data_ptr():  # the network was moved, or widened
                    row.data = flattened(parameter.data, parameter)
                row.grad = None if gradient is None else flattened(gradient, parameter)
            if held is not None:
                optimizer.found_inf = held  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, decay in self.decays.items():
            if name in gradients:
                age = self.ages.get(name, 0) + step
                _follow(self.averages[name], self.networks[name], min(decay, 1 - 1 / (age + 1)))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network; buffers are copied."""
    for mine, its in zip(average.parameters(), network.parameters(), strict=True):
        mine.lerp_(its, 1 - decay)
    for buffer, now in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(now)


def flattened(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape as one row ``(P,)``, in the parameter's order in memory.

    Optimizers are given rows, of parameters, gradients and moments alike: the fused ones walk
    through memory, and copy whatever is not in C order to be able to.
    """
    if value.stride() != parameter.stride():
        value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.as_strided((value.numel(),), (1,))


def state_of(part: nn.Module) -> dict[str, Tensor]:
    """A module's buffers by name, but for those that are not persistent."""
    names = {name for name, _ in part.named_buffers()}
    return {name: value for name, value in part.state_dict().items() if name in names}


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer may change, in order."""
    return [p for p in network.parameters() if p.requires_grad]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
