"""Layers that several networks have in common, against loops."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd import gradcheck

from xraygan.plugin_api import ConditionalNorm, with_deviation


def normal(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def test_the_conditional_norm_against_a_loop() -> None:
    norm = ConditionalNorm(4, 3).double()
    for seed, parameter in enumerate(norm.parameters()):
        parameter.data += normal(seed, *parameter.shape)
    x = normal(0, 2, 4, 3, 3)
    # of two images: one with two findings, one with another
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    found = norm(x, labels)
    weights = {name: value.tolist() for name, value in norm.named_parameters()}
    for c in range(4):
        values = x[:, c].flatten().tolist()
        mean = math.fsum(values) / len(values)
        var = math.fsum((v - mean) ** 2 for v in values) / len(values)
        for n in range(2):
            gain, bias = (
                weights[f"{what}.bias"][c]
                + math.fsum(weights[f"{what}.weight"][c][k] * labels[n, k].item() for k in range(3))
                for what in ("gain", "bias")
            )
            expected = gain * (x[n, c] - mean) / math.sqrt(var + 1e-5) + bias
            torch.testing.assert_close(found[n, c], expected, rtol=1e-10, atol=1e-12)
    assert gradcheck(norm, (x.requires_grad_(), labels.requires_grad_()))


def test_the_deviation_of_a_batch_against_a_loop() -> None:
    maps = normal(0, 3, 2, 2, 2)
    deviations = [np.std(maps[:, c, i, j].tolist()) for c in (0, 1) for i in (0, 1) for j in (0, 1)]
    found = with_deviation(maps)
    torch.testing.assert_close(found[:, :2], maps)
    expected = torch.full((3, 2, 2), float(np.mean(deviations)), dtype=torch.float64)
    torch.testing.assert_close(found[:, 2], expected, rtol=1e-6, atol=0)
    same = maps[:1].expand(3, -1, -1, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(with_deviation(same).sum(), same)
    assert bool(gradient.isfinite().all())
