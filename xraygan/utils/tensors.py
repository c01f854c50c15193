"""Tensor types that losses and metrics compute in."""

from __future__ import annotations

import torch
from torch import Tensor


def as_float32(tensor: Tensor) -> Tensor:
    """A tensor in float32, or unchanged if it is float64.

    Networks may run in bfloat16; losses and probabilities are computed in float32 or better.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()
