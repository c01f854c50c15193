"""The trained parameters of a network, its buffers, and its exponential moving average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer may change, in order."""
    return [p for p in network.parameters() if p.requires_grad]


def state_of(part: nn.Module) -> dict[str, Tensor]:
    """A module's buffers by name, without those that are not persistent."""
    names = {name for name, _ in part.named_buffers()}
    return {name: value for name, value in part.state_dict().items() if name in names}


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, share: float | Tensor) -> None:
    """ema = ema + share * (network - ema), for parameters; buffers are copied.

    Args:
        share: 1 - decay; a tensor ``()`` on the networks' device where its value is not to be
            waited for.
    """
    averages: list[Tensor] = list(ema.parameters())
    parameters: list[Tensor] = list(network.parameters())
    if averages and isinstance(share, Tensor):
        changes = torch._foreach_sub(parameters, averages)
        torch._foreach_mul_(changes, share)
        torch._foreach_add_(averages, changes)
    elif averages:
        assert not isinstance(share, Tensor)
        torch._foreach_lerp_(averages, parameters, share)
    copy_each(list(ema.buffers()), list(network.buffers()))


@torch.no_grad()
def copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each tensor into its target: on a GPU by few launches instead of one for each."""
    pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}  # a launch is of one type
    for target, source in zip(targets, sources, strict=True):
        pairs.setdefault(target.dtype, []).append((target, source))
    for of_type in pairs.values():
        torch._foreach_copy_([target for target, _ in of_type], [source for _, source in of_type])


def copies(tensors: Sequence[Tensor], kept: Sequence[Tensor] = ()) -> list[Tensor]:
    """A copy of each tensor: in those that an earlier call returned, if all of them fit."""
    kinds, of_kept = ([(t.shape, t.dtype) for t in given] for given in (tensors, kept))
    made = list(kept) if kinds == of_kept else [torch.empty_like(tensor) for tensor in tensors]
    copy_each(made, tensors)
    return made
