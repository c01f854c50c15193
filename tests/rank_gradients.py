"""Gradients of several layouts in memory, as two ranks average them, for test_ranks.py."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from xraygan.distributed.ranks import Gradients, join_process_group
from xraygan.utils.seeding import rng


def parameters() -> list[Tensor]:
    """Those of convolutions in channels_last, with 3 x 3 and 1 x 1 kernels, and of plain layers."""
    convolutions = [torch.zeros(5, 4, 3, 3), torch.zeros(5, 4, 1, 1), torch.zeros(3, 2, 3, 3)]
    last = [weight.to(memory_format=torch.channels_last) for weight in convolutions]
    return [*last, torch.zeros(4, 3, 2), torch.zeros(6, 3).T, torch.zeros(7), torch.zeros(())]


def gradients(rank: int) -> list[Tensor | None]:
    """Those of one rank: in the order of their parameters, in another one, or none."""
    own: list[Tensor | None] = []
    for i, parameter in enumerate(parameters()):
        value = torch.randn(parameter.shape, generator=rng("cpu", 10 * rank + i, "gradient"))
        same = torch.empty_like(parameter).copy_(value)
        own.append(value.contiguous() if i == 2 else same)
    own[3 + rank] = None  # of these, one rank alone has a gradient
    own[6] = None
    return own


def average(out: str) -> None:
    """Average as one of two ranks, and save what came of it as OUT and the rank's number."""
    torch.set_num_threads(1)
    with join_process_group("cpu") as ranks:
        given: Gradients = {"b": gradients(ranks.index), "a": [torch.ones(2) * ranks.index]}
        averaged = ranks.average_gradients(given, {"b": parameters(), "a": [torch.zeros(2)]})
        found = {
            f"{network}/{i}": mean
            for network, row in averaged.items()
            for i, mean in enumerate(row)
            if mean is not None
        }
        # Files of safetensors hold tensors in C order.
        strides = {key: json.dumps(mean.stride()) for key, mean in found.items()}
        means = {key: mean.contiguous() for key, mean in found.items()}
        save_file(means, f"{out}{ranks.index}", metadata=strides)


def read(path: str) -> dict[str, Tensor]:
    """What :func:`average` wrote, by network and number, in their order in memory."""
    with safe_open(path, "pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        strides = {key: json.loads(text) for key, text in file.metadata().items()}
    return {
        key: torch.empty_strided(mean.shape, strides[key]).copy_(mean)
        for key, mean in found.items()
    }
