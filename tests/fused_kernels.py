"""The kernels of PyTorch's SyncBatchNorm, which it has for GPUs alone, made of other operations.

Chan et al. (1979) for the statistics of all ranks; Ioffe and Szegedy, arXiv:1502.03167, Sec. 3 for
the gradients. So that batch norms of GPUs can be tested on processors, and on FakeTensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def _others(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _over(channels: Tensor, x: Tensor) -> Tensor:
    """Values ``(C,)`` to be broadcast over those of ``(N, C, ...)``."""
    return channels.view([-1 if d == 1 else 1 for d in range(x.dim())])


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def batch_norm_stats(x: Tensor, eps: float) -> Pair:
    var, mean = torch.var_mean(_exact(x), dim=_others(x), correction=0)
    return mean, (var + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    invstds: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> Pair:
    shares, total = counts[:, None] / counts.sum(), counts.sum()
    mean = (shares * means).sum(dim=0)
    var = (shares * (invstds.pow(-2) - eps + (means - mean).square())).sum(dim=0)
    if running_mean is not None and running_var is not None:
        running_mean.mul_(1 - momentum).add_(momentum * mean)
        running_var.mul_(1 - momentum).add_(momentum * var * total / (total - 1))
    return mean, (var + eps).rsqrt()


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    y = (_exact(x) - _over(mean, x)) * _over(invstd, x)
    y = y if weight is None else y * _over(weight, x)
    y = y if bias is None else y + _over(bias, x)
    return torch.empty_like(x).copy_(y)


def batch_norm_backward_reduce(
    dy: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, *_: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dy = _exact(dy)
    sum_dy = dy.sum(dim=_others(x))
    sum_dy_xmu = (dy * (_exact(x) - _over(mean, x))).sum(dim=_others(x))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def batch_norm_backward_elemt(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    counts: Tensor,
) -> Tensor:
    scale = invstd if weight is None else invstd * weight
    along = invstd.square() * sum_dy_xmu / counts.sum()
    centred = _exact(dy) - _over(sum_dy / counts.sum(), x)
    dx = (centred - (_exact(x) - _over(mean, x)) * _over(along, x)) * _over(scale, x)
    return torch.empty_like(x).copy_(dx)


@contextmanager
def fused_kernels(key: str) -> Iterator[None]:
    """Within it PyTorch has these kernels for the tensors of a dispatch key, "CPU" or "Meta"."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        for kernel in (
            batch_norm_stats,
            batch_norm_gather_stats_with_counts,
            batch_norm_elemt,
            batch_norm_backward_reduce,
            batch_norm_backward_elemt,
        ):
            library.impl(kernel.__name__, kernel, key)
        yield
