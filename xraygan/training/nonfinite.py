"""Non-finite terms and gradients: detected before a network learns from them, and diagnosed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from xraygan.distributed.ranks import DistributedContext, Gradients
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.utils.atomic_files import write_json

#: steps in a row that [run] on_nonfinite = "skip" may skip before the run is stopped
MAX_SKIPPED = 20


class NonFiniteGuard:
    """Keeps every optimizer from stepping, from the first step on that is not finite.

    Everything is computed on the device: :meth:`update` sets the flag :attr:`found_inf` there, and
    PyTorch's fused optimizers read it there (as they do under a ``GradScaler``). Only
    :meth:`first` and :meth:`terms` wait for the device. The flag stays set, so however late it is
    read, no later step has changed a network.

    A gradient counts as non-finite if its norm is: where squares overflow, an optimizer's second
    moment would too.

    Attributes:
        found_inf: 1 from the first non-finite step on, else 0; ``()`` float32, the same on every
            rank.
    """

    def __init__(self, device: torch.device, ranks: DistributedContext) -> None:
        self.ranks = ranks
        self.found_inf = torch.zeros((), dtype=torch.float32, device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        #: step -> the names of its terms, and the values of these, then norms of gradients
        self._unread: dict[int, tuple[list[str], Tensor]] = {}

    def update(self, step: int, values: Mapping[str, Tensor], gradients: Gradients) -> Tensor:
        """Note one step's terms and gradients (averaged over ranks); returns :attr:`found_inf`."""
        self.keep(step, list(values), self.check(step, values, gradients))
        return self.found_inf

    def check(
        self, step: int | Tensor, values: Mapping[str, Tensor], gradients: Gradients
    ) -> Tensor:
        """Set :attr:`found_inf`, on the device alone.

        Args:
            step: its number; a tensor ``()`` where the operations are to be the same in each step.

        Returns:
            The values and the gradients' norms, one row, for :meth:`keep`.
        """
        every = [gradient for row in gradients.values() for gradient in row]
        norms = torch._foreach_norm([gradient for gradient in every if gradient is not None])
        scalars = [value.reshape(()).float() for value in (*values.values(), *norms)]
        if not scalars:
            return torch.zeros(0, device=self.found_inf.device)
        stacked = torch.stack(scalars).detach()
        bad = 1 - stacked.isfinite().all().float()
        bad = self.ranks.largest_tensor(bad)
        self._first.copy_(torch.where((self._first < 0) & (bad > 0), step, self._first))
        self.found_inf.copy_(torch.maximum(self.found_inf, bad))
        return stacked

    def keep(self, step: int, names: list[str], row: Tensor) -> None:
        """Remember what :meth:`check` returned, and the names of its values, for :meth:`terms`."""
        if len(row):
            self._unread[step] = (names, row)

    def first(self) -> int | None:
        """The first non-finite step, if there was one; waits for the device."""
        step = int(self._first)
        if step < 0:
            self._unread.clear()  # all were finite
            return None
        return step

    def terms(self, step: int) -> dict[str, float]:
        """The terms that were not finite in a step after the last call of :meth:`first`."""
        names, stacked = self._unread.get(step, ([], torch.zeros(0)))
        values = dict(zip(names, stacked.tolist(), strict=False))
        return {name: value for name, value in values.items() if not math.isfinite(value)}

    def reset(self) -> None:
        """Let optimizers step again."""
        self.found_inf.zero_()
        self._first.fill_(-1)
        self._unread.clear()


def diagnose(graph: TrainingGraph, step: TrainingStep) -> dict[str, Any]:
    """Find what is not finite in a step, by differentiating each term separately.

    Returns:
        terms: the value of each term that a network learns from, a string where JSON has no number
            for it.
        gradients: term -> network -> the parameters whose gradient from it is not finite.
        parameters: network -> its own parameters that are not finite.
    """
    values, losses = graph.evaluate(step)
    gradients: dict[str, dict[str, list[str]]] = {}
    for term, loss in losses.items():
        by_network = graph.differentiate(step, {term: loss}, keep=True)
        broken = {n: _not_finite(graph.networks[n], own) for n, own in by_network.items()}
        gradients[term] = {network: names for network, names in broken.items() if names}
    parameters = {
        name: _not_finite(network, list(_trained(network).values()))
        for name, network in graph.networks.items()
    }
    return {
        "terms": {
            term.name: _as_json(float(values[term.name]))
            for term in graph.terms
            if term.trains and term.name in values
        },
        "gradients": {term: broken for term, broken in gradients.items() if broken},
        "parameters": {network: names for network, names in parameters.items() if names},
    }


def describe_diagnosis(diagnosis: Mapping[str, Any]) -> str:
    """A diagnosis as a clause: which terms, else which gradients; empty if all is finite."""
    broken = [name for name, names in diagnosis["parameters"].items() if names]
    terms = {name: v for name, v in diagnosis["terms"].items() if isinstance(v, str)}
    clauses = []
    if broken:
        clauses.append(f"parameters of the {_join_names(broken)} are not finite")
    if terms:
        clauses.append(", ".join(f"the term {name!r} is {value}" for name, value in terms.items()))
    else:
        clauses += [
            f"the gradient of the term {term!r} in the {_join_names(networks)} is not finite"
            for term, networks in diagnosis["gradients"].items()
        ]
    return "; ".join(clauses)


def write_evidence(
    folder: Path, graph: TrainingGraph, step: TrainingStep, diagnosis: Mapping[str, Any]
) -> None:
    """Write the batch, the networks and the diagnosis of a step into ``folder``, for inspection.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    batch = {"real": step.real, "labels": step.labels}
    if "generator" in graph.networks:
        batch |= {"z": step.z, "fake": step.fake}
        if graph.networks["generator"].conditional:
            batch["fake_labels"] = step.fake_labels
    for name, tensors in {
        "batch": batch,
        **{name: network.state_dict() for name, network in graph.networks.items()},
    }.items():
        on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(on_cpu, folder / f"{name}.safetensors")
    write_json(folder / "diagnosis.json", diagnosis)


def _trained(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _not_finite(network: torch.nn.Module, tensors: list[Tensor | None]) -> list[str]:
    """The names of the trained parameters whose tensor, of ``tensors``, is not finite."""
    return [
        name
        for name, tensor in zip(_trained(network), tensors, strict=True)
        if tensor is not None and not bool(tensor.isfinite().all())
    ]


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _join_names(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))
