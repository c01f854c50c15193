"""What the files of a checkpoint hold of a training graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xraygan.graph.graph import TrainingGraph
from xraygan.graph.parameters import state_of

STATE = ".state"  # ends the name of the file of a part that is no network


def networks(graph: TrainingGraph) -> dict[str, nn.Module]:
    """What is saved of each network, by the name of its file."""
    averages = {f"{name}.average": network for name, network in graph.ema.items()}
    return {**graph.networks, **averages}


def contents(graph: TrainingGraph) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file of a checkpoint: networks, averages, optimizers and what other parts
    remember."""
    named = {name: network.state_dict() for name, network in networks(graph).items()}
    named |= {f"{name}{STATE}": state_of(part) for name, part in graph.states.items()}
    files = {
        f"{name}.safetensors": {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        for name, tensors in named.items()
    }
    for name, optimizer in graph.optimizers.items():
        files[f"{name}.optimizer.safetensors"] = {
            f"{key}/{what}": _as_saved(value, parameter if what != "step" else None)
            for (key, parameter), flat in zip(
                trained(graph.networks[name]), optimizer.param_groups[0]["params"], strict=True
            )
            for what, value in optimizer.state.get(flat, {}).items()
            if value is not None
        }
    return files


def _as_saved(value: Any, parameter: Tensor | None) -> Tensor:
    """A tensor of an optimizer's state; a row takes its parameter's shape."""
    tensor = torch.as_tensor(value).detach()
    if parameter is not None:
        tensor = tensor.as_strided(parameter.shape, parameter.stride())
    return tensor.cpu().contiguous()


def trained(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """A network's parameters that an optimizer changes, by name."""
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


def put_back(part: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Restore a part's buffers; False if they are not those that it has."""
    own = state_of(part)
    if tensors.keys() != own.keys():
        return False
    for key, value in tensors.items():
        if value.shape == own[key].shape:
            own[key].copy_(value)
        else:  # a buffer that grows
            module, _, leaf = key.rpartition(".")
            setattr(part.get_submodule(module), leaf, value.to(own[key].device))
    return True
