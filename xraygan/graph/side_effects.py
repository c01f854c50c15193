"""Checks that plugins leave a step's tensors and the networks unchanged, and keep no graph.

PyTorch counts changes in place in each tensor's version, which autograd uses too. Comparing
versions before and after a call finds such a change without reading a value from a GPU.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import Tensor

from xraygan.parts.plugin_errors import BadAnswer, Spoiling, is_own
from xraygan.parts.step import Step

if TYPE_CHECKING:
    from xraygan.parts.part_config import PartConfig


_log = logging.getLogger(__name__)

#: steps after which it is known whether a part keeps every step's autograd graph
OBSERVED_STEPS = 6

#: network -> the tables of the parts that were seen to leave it as it is
_trusted: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


class ChangeDetector:
    """The tensors of a step with their versions, compared after each call of a plugin.

    Only parts of other distributions are watched; tests check the built-in ones.

    Attributes:
        values: weak references to the values that those parts returned, by their tables.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Tensor, int]] = {}
        self.values: dict[str, list[ReferenceType[Any]]] = {}

    def note(self, name: str, tensor: Tensor) -> Tensor:
        """Remember the version of a tensor that was just computed; returns the tensor."""
        if not tensor.is_inference():
            self._seen[name] = (tensor, tensor._version)
        return tensor

    @contextmanager
    def over(self, step: Step, choice: PartConfig | None) -> Iterator[None]:
        """Check the step's tensors after a call of a part, and at its first call the networks.

        Raises:
            BadAnswer: it has changed a tensor of the step in place, or called ``backward()``.
            Spoiling: it has changed a network.
        """
        if is_own(choice):
            yield
            return
        assert choice is not None
        tensors = vars(step)
        for name, value in tensors.items():
            if isinstance(value, Tensor) and name not in self._seen:
                self.note(name, value)
        new = [n for n in step.networks.values() if choice.table not in _tables(n)]
        before = [_state(network) for network in new]
        yield
        for name, (tensor, version) in self._seen.items():
            if tensors.get(name, tensor) is not tensor or tensor._version != version:
                raise BadAnswer(f"changed step.{name}, which others read; work on a clone of it")
            if tensor.is_leaf and tensor.requires_grad and tensor.grad is not None:
                raise BadAnswer(_BACKWARD)
        _check_networks(step, new, before)
        for network in new:
            _tables(network).add(choice.table)


_BACKWARD = "called backward(); the toolkit takes all gradients itself, so return the value alone"


def _check_networks(step: Step, networks: list[Any], before: list[Any]) -> None:
    names = {id(network): name for name, network in step.networks.items()}
    for network, was in zip(networks, before, strict=True):
        if _state(network) != was:
            raise Spoiling(
                f"changed the {names[id(network)]} (its parameters, training mode or "
                "requires_grad); networks are changed by their optimizers alone"
            )
        if any(parameter.grad is not None for parameter in network.parameters()):
            for parameter in network.parameters():
                parameter.grad = None
            raise BadAnswer(_BACKWARD)


def _tables(network: Any) -> set[str]:
    return _trusted.setdefault(network, set())


def _state(network: Any) -> tuple[bool, int, int]:
    parameters = list(network.parameters())
    changes = sum(parameter._version for parameter in parameters)
    return network.training, changes, sum(p.requires_grad for p in parameters)


class GraphLeakCheck:
    """Warns if a part keeps the autograd graph of every step, so that memory would run out.

    It holds weak references to the tensors of the first steps: if some of every step are alive
    after :data:`OBSERVED_STEPS` steps, a part keeps them.

    Args:
        choices: the parts that steps call; nothing is done where all are built in.
    """

    def __init__(self, choices: Iterable[PartConfig]) -> None:
        self._choices = [choice for choice in choices if not is_own(choice)]
        self._steps: list[dict[str, list[ReferenceType[Any]]]] = []

    def observe(self, step: Step, values: Mapping[str, list[ReferenceType[Any]]]) -> None:
        """Refer to a step that was just taken; after the last one, warn if all are alive.

        Args:
            values: :attr:`ChangeDetector.values` of the step.
        """
        if not self._choices or len(self._steps) == OBSERVED_STEPS:
            return
        graph = [v for v in vars(step).values() if isinstance(v, Tensor) and v.requires_grad]
        self._steps.append({"": [ref(step), *map(ref, graph)], **values})
        if len(self._steps) == OBSERVED_STEPS and self._alive(""):
            gc.collect()  # garbage that is not collected yet is no leak
            if self._alive(""):
                self._warn()

    def _warn(self) -> None:
        tables = [c.table for c in self._choices if self._alive(c.table)]
        suspects = [c for c in self._choices if c.table in tables or not tables]
        parts = " or ".join(
            f"[{c.table}] (the {c.part.kind} {c.part.name!r} of {c.part.origin})" for c in suspects
        )
        _log.warning(
            "%s keeps tensors of every step, with their autograd graph, so memory will run out: "
            "keep detach() or item() of them, or nothing",
            parts,
        )

    def _alive(self, table: str) -> bool:
        """Whether tensors of every step are alive, but for the last, which may be in use."""
        return all(any(r() is not None for r in s.get(table, ())) for s in self._steps[:-1])
