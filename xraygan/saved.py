"""What the files of a checkpoint hold of a training graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .graph import TrainingGraph


def networks(graph: TrainingGraph) -> dict[str, nn.Module]:
    """What is saved of each network, by the name of its file."""
    averages = {f"{name}.average": network for name, network in graph.averages.items()}
    return {**graph.networks, **averages}


def contents(graph: TrainingGraph) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file of a checkpoint: networks, averages and optimizers."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, network in networks(graph).items():
        files[f"{name}.safetensors"] = {
            key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
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
