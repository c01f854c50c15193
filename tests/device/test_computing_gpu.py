"""The rules of the pretended GPU that computes are those of PyTorch: on a card they are its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from computing_gpu import computing_gpu
from torch import Tensor, nn

GPU = "cuda"
REFUSED = "refused"

#: operations on a vector of the GPU and one of the processor -> where the result is
RULES: list[tuple[Callable[[Tensor, Tensor], Any], str]] = [
    (lambda g, c: g + 1, GPU),
    (lambda g, c: g + c, REFUSED),
    (lambda g, c: g * c.sum(), GPU),
    (lambda g, c: c * g.sum(), REFUSED),
    (lambda g, c: c.sum().add_(g.sum()), REFUSED),
    (lambda g, c: torch.where(g > 0, g, c.sum()), GPU),
    (lambda g, c: torch.stack([g.sum(), g.mean()]), GPU),
    (lambda g, c: torch.stack([g.sum(), c.sum()]), REFUSED),
    (lambda g, c: torch.cat([g, c]), REFUSED),
    (lambda g, c: torch.equal(g, c), REFUSED),
    (lambda g, c: F.mse_loss(g, c), REFUSED),
    (lambda g, c: F.conv1d(g[None], c[None, None], padding=1), REFUSED),
    (lambda g, c: nn.Linear(3, 2).to(GPU)(g), GPU),
    (lambda g, c: nn.Linear(3, 2)(g), REFUSED),
    (lambda g, c: nn.BatchNorm1d(3).to(GPU).eval().running_mean, GPU),
    (lambda g, c: copy.deepcopy(nn.Linear(3, 2).to(GPU)).weight, GPU),
    (lambda g, c: copy.deepcopy(nn.Linear(3, 2).to(GPU)).cpu().bias, "cpu"),
    (lambda g, c: torch.autograd.grad(g.requires_grad_().square().sum(), g)[0], GPU),
    # -- copies
    (lambda g, c: g.cpu(), "cpu"),
    (lambda g, c: c.cuda(), GPU),
    (lambda g, c: g.to("cpu", torch.float64), "cpu"),
    (lambda g, c: g.to(torch.float64), GPU),
    (lambda g, c: c.to(g), GPU),
    (lambda g, c: c.to(device=GPU, non_blocking=True), GPU),
    (lambda g, c: torch.as_tensor(g, device="cpu"), "cpu"),
    (lambda g, c: torch.as_tensor(c, device=GPU), GPU),
    (lambda g, c: c.copy_(g), "cpu"),
    (lambda g, c: g.copy_(c), GPU),
    (lambda g, c: g.cpu().numpy(), "ndarray"),
    (lambda g, c: g.numpy(), REFUSED),
    (lambda g, c: np.asarray(g), REFUSED),
    (lambda g, c: np.stack([g, g]), REFUSED),
    # -- indices
    (lambda g, c: g[1:], GPU),
    (lambda g, c: g[c.long()], GPU),
    (lambda g, c: g[c > 0], GPU),
    (lambda g, c: c[g.long()], REFUSED),
    (lambda g, c: c[g > 0], REFUSED),
    (lambda g, c: c[g.long()[0]], "cpu"),
    (lambda g, c: _set(g, slice(0, 2), c[:2]), GPU),
    (lambda g, c: _set(g, c.long(), g + 1), GPU),
    (lambda g, c: _set(g, c.long(), c + 1), REFUSED),
    (lambda g, c: _set(g, g > 0, c.sum()), GPU),
    (lambda g, c: _set(c, g > 0, 0.0), REFUSED),
    # -- new tensors
    (lambda g, c: torch.zeros(3, device=g.device), GPU),
    (lambda g, c: torch.zeros(3), "cpu"),
    (lambda g, c: torch.zeros_like(g), GPU),
    (lambda g, c: torch.zeros_like(g, device="cpu"), "cpu"),
    (lambda g, c: g.new_zeros(3), GPU),
    (lambda g, c: torch.as_tensor(np.zeros(3), device=GPU), GPU),
    (lambda g, c: torch.from_numpy(np.zeros(3)), "cpu"),
    # -- random numbers
    (lambda g, c: torch.randn(3, generator=torch.Generator(GPU), device=GPU), GPU),
    (lambda g, c: torch.randn(3, generator=torch.Generator(), device=GPU), REFUSED),
    (lambda g, c: torch.randn(3, generator=torch.Generator(GPU)), REFUSED),
    (lambda g, c: g.normal_(generator=torch.Generator()), REFUSED),
    (lambda g, c: F.dropout(g), GPU),
]


def _set(tensor: Tensor, index: Any, value: Any) -> Tensor:
    tensor[index] = value
    return tensor


on_a_card = pytest.param(
    nullcontext,
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
    ],
    id="card",
)


@pytest.mark.parametrize("on", [pytest.param(computing_gpu, id="pretended"), on_a_card])
def test_an_operation_is_refused_where_a_gpu_refuses_it(
    on: Callable[[], AbstractContextManager[Any]],
) -> None:
    with on():
        found = [_place(operation) for operation, _ in RULES]
    wrong = [(i, there) for i, there in enumerate(found) if there != RULES[i][1]]
    assert not wrong


def _place(operation: Callable[[Tensor, Tensor], Any]) -> str:
    try:
        made = operation(torch.ones(3, device=GPU), torch.ones(3))
    except (RuntimeError, TypeError) as error:
        assert "device" in str(error) or "should be the same" in str(error)
        return REFUSED
    return made.device.type if isinstance(made, Tensor) else type(made).__name__


class Doubled(torch.autograd.Function):
    """Twice a tensor, with a gradient in Python that adds another one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(added)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return 2 * gradients[0] + ctx.saved_tensors[0], None


def test_a_backward_pass_in_python_has_the_rules_of_the_gpu() -> None:
    with computing_gpu():
        x, zeros = torch.ones(3, device=GPU, requires_grad=True), torch.zeros(3)
        (slope,) = torch.autograd.grad(Doubled.apply(x, zeros.to(GPU)).sum(), x)
        assert slope.tolist() == [2, 2, 2] and slope.is_cuda
        with pytest.raises(RuntimeError, match="same device"):
            torch.autograd.grad(Doubled.apply(x, zeros).sum(), x)


def test_autocast_of_the_gpu_rounds_as_that_of_the_processor() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
    with computing_gpu(), torch.autocast("cuda", dtype=torch.bfloat16):
        found = layer.to(GPU)(x.to(GPU))
        assert found.dtype == torch.bfloat16 and torch.equal(found.cpu(), expected)


def test_nothing_of_it_is_left_behind() -> None:
    before = torch.Generator, torch.autocast, torch.cuda.is_available()
    with computing_gpu():
        assert torch.cuda.is_available() and torch.zeros(1, device=GPU).is_cuda
    assert (torch.Generator, torch.autocast, torch.cuda.is_available()) == before
