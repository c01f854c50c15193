"""What stands in for operations whose gradients differ from run to run on a GPU equals them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from xraygan_resnet.patch_grid import window_maxima
from xraygan_scores.padding import reflected

from xraygan.graph.parameters import copies, copy_each, update_ema


def _with_gradient(made: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view(made.shape)
    return made, torch.autograd.grad((made * weights).sum(), maps)[0]


@pytest.mark.parametrize("padding", [1, 4])
def test_reflected_borders_are_those_of_pytorch(padding: int) -> None:
    maps = torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    ours, slope = _with_gradient(reflected(maps, padding), maps)
    theirs, expected = _with_gradient(F.pad(maps, [padding] * 4, mode="reflect"), maps)
    assert torch.equal(ours, theirs)
    assert (slope - expected).abs().max() < 5e-15
    nhwc = maps.detach().to(memory_format=torch.channels_last)
    assert reflected(nhwc, padding).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("size", "count"), [(7, 3), (8, 4), (13, 5), (9, 8)])
def test_maxima_of_windows_are_those_of_pytorch(size: int, count: int) -> None:
    maps = torch.randint(0, 4, (2, 3, size, size)).double().requires_grad_()  # many equal maxima
    made = window_maxima(window_maxima(maps, count, 3), count, 2)
    ours, slope = _with_gradient(made, maps)
    theirs, expected = _with_gradient(F.adaptive_max_pool2d(maps, count), maps)
    assert torch.equal(ours, theirs)
    assert (slope - expected).abs().max() < 1e-14


def test_averages_are_updated_by_few_launches_to_the_same_bits() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    network(torch.randn(4, 3, 9, 9))
    ema = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    network(torch.randn(4, 3, 9, 9))
    before = copy.deepcopy(ema.state_dict())
    expected = [a.detach().lerp(p, 1 - 0.9) for a, p in zip(
        ema.parameters(), network.parameters(), strict=True)]  # fmt: skip
    with Launches() as launches:
        update_ema(ema, network, 1 - 0.9)
    assert launches.names == ["_foreach_lerp_", "_foreach_copy_", "_foreach_copy_"]
    assert all(map(torch.equal, ema.parameters(), expected))
    assert all(map(torch.equal, ema.buffers(), network.buffers()))
    ema.load_state_dict(before)
    share = torch.tensor(1 - 0.9)
    with Launches() as launches:  # a share that only the device knows
        update_ema(ema, network, share)
    assert launches.names[:3] == ["_foreach_sub", "_foreach_mul_", "_foreach_add_"]
    torch.testing.assert_close(list(ema.parameters()), expected)
    kept = copies(list(network.buffers()))
    network(torch.randn(4, 3, 9, 9))
    assert not all(map(torch.equal, network.buffers(), kept))
    copy_each(list(network.buffers()), kept)
    assert all(map(torch.equal, network.buffers(), ema.buffers()))


class Launches(TorchDispatchMode):
    """Notes the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))
