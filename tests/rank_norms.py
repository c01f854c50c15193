"""Batch norms over the rows of two ranks: those of processors and those of GPUs.

For test_ranks.py. The kernels of the latter are made of other operations (:mod:`fused_kernels`), so
that they run on processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from fused_kernels import fused_kernels
from safetensors import safe_open
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from xraygan.distributed.ranks import join_process_group, synchronise_batch_norm
from xraygan.graph.passes import keep_running_statistics
from xraygan.utils.seeding import rng

SHAPES = {1: (8, 3), 2: (8, 3, 4, 4), 3: (8, 3, 2, 3, 2)}
#: name -> number of dimensions of a map, options
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "rows": (1, {}),
    "maps": (2, {}),
    "maps in bfloat16": (2, {}),
    "maps by channel": (2, {}),
    "volumes": (3, {"momentum": 0.3, "eps": 1e-3}),
    "the mean of all batches": (2, {"momentum": None}),
    "statistics that stay": (2, {"momentum": None}),
    "no parameters": (2, {"affine": False}),
    "no statistics": (2, {"track_running_stats": False}),
    "a frozen bias": (2, {}),
    "evaluation": (2, {}),
    "an activation": (2, {}),
}


def network_of(case: str) -> nn.Sequential:
    """A network of one batch norm, with parameters and statistics that are all different."""
    dimensions, options = CASES[case]
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    if case == "an activation":
        kind = BatchNormAct2d  # of timm: a ReLU behind it, in the forward pass of its own
    network = nn.Sequential(kind(3, **options)).double()
    random = rng("cpu", 0, case)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
    if case == "a frozen bias":
        network[0].bias.requires_grad_(False)
    return network.train(case != "evaluation")


def images(case: str, purpose: str, device: str) -> Tensor:
    made = torch.randn(SHAPES[CASES[case][0]], generator=rng("cpu", 1, case, purpose)).double()
    order = torch.channels_last if case == "maps by channel" else torch.contiguous_format
    return made.to(device, memory_format=order)


def measure(case: str, network: nn.Module, rows: slice, device: str = "cpu") -> dict[str, Tensor]:
    """Outputs, gradients and the state of a network after two batches, of which it sees rows."""
    found: dict[str, Tensor] = {}
    network.to(device)
    own: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
    keep = keep_running_statistics if case == "statistics that stay" else lambda _: nullcontext()
    if case == "maps in bfloat16":
        network.float()
    for batch in ("first", "second"):
        x = images(case, batch, device)[rows].requires_grad_()
        with keep(network):
            given = x.bfloat16() if case == "maps in bfloat16" else x
            y = network(given)
        weights = images(case, f"weights of the {batch}", device)[rows]
        gradients = torch.autograd.grad((y * weights).sum(), [x, *own])
        found[f"{batch} output"], found[f"{batch} gradient"] = y.detach(), gradients[0]
        for i, gradient in enumerate(gradients[1:]):
            found[f"{batch} gradient of parameter {i}"] = gradient
    return {name: value.cpu() for name, value in (found | dict(network.state_dict())).items()}


def expect_the_whole_batch(case: str, of_ranks: list[dict[str, Tensor]]) -> None:
    """Expect of each rank what one process measures with the whole batch, and the same names."""
    whole = measure(case, network_of(case), slice(None))
    error = 0.02 if case == "maps in bfloat16" else 1e-9
    for name, value in whole.items():
        first, second = (found.pop(name) for found in of_ranks)
        assert first.dtype == value.dtype, name
        if name.endswith(("output", " gradient")):
            found = torch.cat([first, second])
        elif "gradient" in name:
            found = first + second
        else:
            found = first
            assert torch.equal(first, second), name
        torch.testing.assert_close(found, value, rtol=error, atol=error)
    assert of_ranks == [{}, {}]


def differentiate_twice(network: nn.Module, device: str) -> str:
    """What PyTorch says to it, empty if it can be done."""
    x = images("maps", "first", device).requires_grad_()
    network.to(device)
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    try:
        torch.autograd.grad(gradient.square().sum(), x)
    except RuntimeError as error:
        return str(error)
    return ""


def write(out: str, device: str = "cpu") -> None:
    """Measure both kinds as one of two ranks, into OUT and the rank's number."""
    torch.set_num_threads(1)
    found: dict[str, Tensor] = {}
    said: dict[str, str] = {}
    with join_process_group("cpu") as ranks, on_processors() if device == "cpu" else nullcontext():
        rows = slice(4 * ranks.index, 4 * ranks.index + 4)
        for fused in (False, True):
            networks = {case: network_of(case) for case in CASES}
            twice = network_of("maps")
            for network in (*networks.values(), twice):
                synchronise_batch_norm(network, ranks, fused=fused)
            for case, network in networks.items():
                measured = measure(case, network, rows, device)
                found |= {f"{case} {fused}/{name}": t.contiguous() for name, t in measured.items()}
            said[f"twice {fused}"] = differentiate_twice(twice, device)
    save_file(found, f"{out}{ranks.index}", metadata=said)


def read(path: str) -> dict[str, Any]:
    """What :func:`write` wrote: a table of tensors for each case and kind, and what was said."""
    found: dict[str, Any] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (it is no mapping)
            case, name = key.split("/")
            found.setdefault(case, {})[name] = file.get_tensor(key)
        return found | file.metadata()


@contextmanager
def on_processors() -> Iterator[None]:
    """Within it PyTorch's SyncBatchNorm, which asks for a GPU, takes tensors of processors."""
    with fused_kernels("CPU"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "cpu")
        yield
