"""The tensors of a training graph that each file of a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xraygan.graph.graph import TrainingGraph
from xraygan.graph.parameters import state_of

STATE = ".state"  # ends the file name of a part that is not a network


def networks_and_averages(graph: TrainingGraph) -> dict[str, nn.Module]:
    """The networks and their moving averages (EMA), by the names of their files."""
    averages = {f"{name}.average": network for name, network in graph.ema.items()}
    return {**graph.networks, **averages}


def contents(graph: TrainingGraph) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file of a checkpoint: networks, averages, optimizers, parts' buffers."""
    named = {name: network.state_dict() for name, network in networks_and_averages(graph).items()}
    named |= {f"{name}{STATE}": state_of(part) for name, part in graph.states.items()}
    files = {
        f"{name}.safetensors": {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        for name, tensors in named.items()
    }
    for name, optimizer in graph.optimizers.items():
        files[f"{name}.optimizer.safetensors"] = {
            f"{key}/{entry}": _as_saved(value, parameter if entry != "step" else None)
            for (key, parameter), flat in zip(
                trainable(graph.networks[name]), optimizer.param_groups[0]["params"], strict=True
            )
            for entry, value in optimizer.state.get(flat, {}).items()
            if value is not None
        }
    return files


def _as_saved(value: Any, parameter: Tensor | None) -> Tensor:
    """A tensor of an optimizer's state; one that belongs to a parameter gets its shape."""
    tensor = torch.as_tensor(value).detach()
    if parameter is not None:
        tensor = tensor.as_strided(parameter.shape, parameter.stride())
    return tensor.cpu().contiguous()


def trainable(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a network that an optimizer changes, by name."""
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


def restore_buffers(part: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Restore the buffers of a part; False if it has buffers of other names."""
    buffers = state_of(part)
    if tensors.keys() != buffers.keys():
        return False
    for key, value in tensors.items():
        if value.shape == buffers[key].shape:
            buffers[key].copy_(value)
        else:  # a buffer that grows
            module, _, leaf = key.rpartition(".")
            setattr(part.get_submodule(module), leaf, value.to(buffers[key].device))
    return True
