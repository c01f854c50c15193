"""Depthwise convolutions: the output of PyTorch's, and gradients against float64."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from xraygan_timm.backbones import Backbone, DepthwiseSame

from xraygan.utils.depthwise import (
    DepthwiseConv2d,
    accelerate_depthwise,
    depthwise_conv2d,
    is_depthwise,
)

#: kernel, side, stride, padding: each way of computing a gradient, and its edges
SHAPES = [
    (3, 8, 1, 1), (3, 2, 1, 1), (3, 9, 2, 0), (5, 2, 1, 2), (5, 7, 2, 0), (5, 8, 1, 2),
    (5, 30, 1, 2), (7, 6, 2, 3), (1, 5, 1, 0), (5, 57, 2, 2),
]  # fmt: skip


def tensors(kernel: int, side: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    images = torch.randn(3, 6, side, side, generator=source, dtype=dtype)
    weight = torch.randn(6, 1, kernel, kernel, generator=source, dtype=dtype)
    return (
        images.to(memory_format=torch.channels_last).requires_grad_(),
        weight.requires_grad_(),
    )


def exact(images: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, ...]:
    """The output, and its gradients for a gradient of cosines, in float64."""
    x, w = (t.detach().double().requires_grad_() for t in (images, weight))
    y = F.conv2d(x, w, None, stride, padding, groups=len(w))
    return y, *torch.autograd.grad(y, (x, w), cosines(y))


def cosines(like: Tensor) -> Tensor:
    return torch.arange(like.numel()).double().cos().view(like.shape).to(like.dtype)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("kernel", "side", "stride", "padding"), SHAPES)
def test_outputs_are_those_of_pytorch_and_gradients_those_of_float64(
    kernel: int, side: int, stride: int, padding: int
) -> None:
    images, weight = tensors(kernel, side)
    made = depthwise_conv2d(images, weight, None, (stride, stride), (padding, padding))
    assert torch.equal(made, F.conv2d(images, weight, None, stride, padding, groups=len(weight)))
    found = torch.autograd.grad(made, (images, weight), cosines(made))
    _, *expected = exact(images, weight, stride, padding)
    assert all(error(*pair) < 1e-5 for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(("kernel", "side", "stride", "padding"), SHAPES)
def test_gradients_under_autocast_have_the_precision_of_bfloat16(
    kernel: int, side: int, stride: int, padding: int
) -> None:
    images, weight = tensors(kernel, side)
    with torch.autocast("cpu", torch.bfloat16):
        made = depthwise_conv2d(images, weight, None, (stride, stride), (padding, padding))
        plain = F.conv2d(images, weight, None, stride, padding, groups=len(weight))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, plain)
    found = torch.autograd.grad(made, (images, weight), cosines(made))
    assert [t.dtype for t in found] == [torch.float32] * 2
    _, *expected = exact(images, weight, stride, padding)
    assert all(error(*pair) < 1e-2 for pair in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "side", "stride", "padding"), [(3, 5, 2, 0), (5, 3, 1, 2)])
def test_gradients_can_be_differentiated_again(
    kernel: int, side: int, stride: int, padding: int
) -> None:
    images, weight = tensors(kernel, side, torch.float64)
    bias = torch.arange(6, dtype=torch.float64, requires_grad=True)

    def convolved(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return depthwise_conv2d(x, w, b, (stride, stride), (padding, padding))

    assert torch.autograd.gradcheck(convolved, (images, weight, bias))
    assert torch.autograd.gradgradcheck(convolved, (images, weight, bias))


def test_the_depthwise_convolutions_of_a_network_are_replaced_and_no_others() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2), Own(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
        nn.Conv2d(8, 8, 3, groups=8, padding_mode="reflect"), nn.Conv2d(1, 1, 3),
    )  # fmt: skip
    before = [type(layer) for layer in network]
    accelerate_depthwise(network)
    assert [type(layer) for layer in network] == [DepthwiseConv2d, *before[1:]]


def test_all_of_efficientnet_lite0_are_replaced_and_its_maps_stay() -> None:
    backbone = Backbone("tf_efficientnet_lite0", "random", 32).eval()
    depthwise = [m for m in backbone.modules() if is_depthwise(m)]
    assert {type(m) for m in depthwise} == {DepthwiseSame, nn.Conv2d}
    names = list(backbone.state_dict())
    plain = copy.deepcopy(backbone)
    for module in plain.modules():
        if type(module) is DepthwiseSame:
            module.__class__ = Conv2dSame
    accelerate_depthwise(backbone)
    assert {type(m) for m in depthwise} == {DepthwiseSame, DepthwiseConv2d}
    assert list(backbone.state_dict()) == names
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(backbone(images)[1], plain(images)[1])


def test_a_network_on_the_meta_device_can_be_tried() -> None:
    with torch.device("meta"):
        network = timm.create_model("tf_efficientnet_lite0", in_chans=1, num_classes=0)
    accelerate_depthwise(network)
    assert network(torch.rand(1, 1, 64, 64, device="meta")).is_meta
