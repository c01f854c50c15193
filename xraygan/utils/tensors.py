"""Tensor types that losses and metrics compute in, copies to the device, and orders in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def as_float32(tensor: Tensor) -> Tensor:
    """A tensor in float32, or unchanged if it is float64.

    Networks may run in bfloat16; losses and probabilities are computed in float32 or better.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, copied without waiting: a GPU reads it from pinned memory later."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def flattened(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape as one row ``(P,)``, in the parameter's order in memory.

    Optimizers work on such rows, of parameters, gradients and moments alike: PyTorch's fused
    optimizers walk through memory, and copy first whatever is not in C order. Ranks send such rows.
    """
    if value.stride() != parameter.stride():
        value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.as_strided((value.numel(),), (1,))
