"""Non-finite terms and gradients: noticed before a network learns from them, and reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from xraygan.distributed.ranks import Gradients, Ranks
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.utils.atomic_files import write_json

#: steps in a row that [run] on_nonfinite = "skip" may leave out before the run is beyond help
PATIENCE = 20


class Guard:
    """Holds every network back from the first step on that is not finite.

    It is asked on the device and answers there, so the processor need not wait for a GPU: whoever
    reads :meth:`first` does.

    A gradient counts as non-finite if its square is, because an optimizer's second moment would be.

    Attributes:
        held: 1 from the first non-finite step on, else 0; ``()`` float32, on every rank alike.
    """

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self.ranks = ranks
        self.held = torch.zeros((), dtype=torch.float32, device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self._seen: dict[int, tuple[list[str], Tensor]] = {}

    def check(self, step: int, values: Mapping[str, Tensor], gradients: Gradients) -> Tensor:
        """Look at one step's terms and gradients (averaged over ranks); returns :attr:`held`."""
        found = [gradient for all_of in gradients.values() for gradient in all_of]
        norms = torch._foreach_norm([gradient for gradient in found if gradient is not None])
        numbers = [value.reshape(()).float() for value in (*values.values(), *norms)]
        if numbers:
            seen = torch.stack(numbers)
            self._seen[step] = (list(values), seen.detach())
            bad = 1 - seen.isfinite().all().float()
            bad = self.ranks.most(bad)
            self._first = torch.where((self._first < 0) & (bad > 0), step, self._first)
            self.held = torch.maximum(self.held, bad)
        return self.held

    def first(self) -> int | None:
        """The first non-finite step, if there was one; waits for the device."""
        step = int(self._first)
        if step < 0:
            self._seen.clear()  # all were finite
            return None
        return step

    def terms(self, step: int) -> dict[str, float]:
        """The terms that were not finite in a step since :meth:`first` was asked before."""
        names, seen = self._seen.get(step, ([], torch.zeros(0)))
        found = dict(zip(names, seen.tolist(), strict=False))
        return {name: value for name, value in found.items() if not math.isfinite(value)}

    def forget(self) -> None:
        """Let networks learn again."""
        self.held = torch.zeros_like(self.held)
        self._first = torch.full_like(self._first, -1)
        self._seen.clear()


def diagnose(graph: TrainingGraph, step: TrainingStep) -> dict[str, Any]:
    """What is not finite about a step, term by term; every term is differentiated by itself.

    Returns:
        terms: the value of each term that somebody learns from, a string where JSON has no number
            for it.
        gradients: term -> network -> the parameters whose gradient from it is not finite.
        parameters: network -> its own parameters that are not finite.
    """
    values, losses = graph.evaluate(step)
    gradients: dict[str, dict[str, list[str]]] = {}
    for term, loss in losses.items():
        found = graph.differentiate(step, {term: loss}, keep=True)
        named = {n: _not_finite(graph.networks[n], own) for n, own in found.items()}
        gradients[term] = {network: names for network, names in named.items() if names}
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
        "gradients": {term: found for term, found in gradients.items() if found},
        "parameters": {name: found for name, found in parameters.items() if found},
    }


def describe(diagnosis: Mapping[str, Any]) -> str:
    """The gist of a diagnosis: which terms, else which gradients; empty if it found nothing."""
    broken = [name for name, names in diagnosis["parameters"].items() if names]
    terms = {name: v for name, v in diagnosis["terms"].items() if isinstance(v, str)}
    said = []
    if broken:
        said.append(f"parameters of the {_listed(broken)} are not finite")
    if terms:
        said.append(", ".join(f"the term {name!r} is {value}" for name, value in terms.items()))
    else:
        for term, networks in diagnosis["gradients"].items():
            said.append(f"the gradient of the term {term!r} in the {_listed(networks)} is not")
            said[-1] += " finite"
    return "; ".join(said)


def write_evidence(
    folder: Path, graph: TrainingGraph, step: TrainingStep, diagnosis: Mapping[str, Any]
) -> None:
    """Leave in ``folder`` what there is to look at: the batch, the networks and the diagnosis."""
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
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(plain, folder / f"{name}.safetensors")
    write_json(folder / "diagnosis.json", diagnosis)


def _trained(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def _not_finite(network: torch.nn.Module, tensors: list[Tensor | None]) -> list[str]:
    """The parameters at whose places a non-finite tensor stands."""
    return [
        name
        for name, tensor in zip(_trained(network), tensors, strict=True)
        if tensor is not None and not bool(tensor.isfinite().all())
    ]


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _listed(names: Any) -> str:
    return " and ".join(sorted(names))
