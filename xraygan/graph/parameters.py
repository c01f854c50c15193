"""The trained parameters of a network, its buffers, and its exponential moving average."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer may change, in order."""
    return [p for p in network.parameters() if p.requires_grad]


def state_of(part: nn.Module) -> dict[str, Tensor]:
    """A module's buffers by name, without those that are not persistent."""
    names = {name for name, _ in part.named_buffers()}
    return {name: value for name, value in part.state_dict().items() if name in names}


def flattened(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape as one row ``(P,)``, in the parameter's order in memory.

    Optimizers work on such rows, of parameters, gradients and moments alike: PyTorch's fused
    optimizers walk through memory, and copy first whatever is not in C order.
    """
    if value.stride() != parameter.stride():
        value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.as_strided((value.numel(),), (1,))


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * network, for parameters; buffers are copied."""
    for average, parameter in zip(ema.parameters(), network.parameters(), strict=True):
        average.lerp_(parameter, 1 - decay)
    for copied, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        copied.copy_(buffer)
