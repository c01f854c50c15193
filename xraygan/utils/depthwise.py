"""Depthwise convolutions whose gradients processors compute fast.

A depthwise convolution has one kernel for each channel, as in EfficientNet, MobileNet and ConvNeXt.
oneDNN, with which PyTorch computes on processors, has fast code for its output. It has none for the
gradients of kernels that are larger than 3 x 3 or than the map, nor in bfloat16 of strides larger
than 1. They take 5 to 100 times as long, up to half of a training step of EfficientNet on small
images. Here these gradients are computed by other convolutions, for which the code is fast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

#: the largest kernel for which oneDNN computes the weights' gradient fast
FAST_KERNEL = 3
#: the largest output, in pixels of a side, for which the exchange of :func:`_weight_gradient` pays
LARGEST_SIDE = 28

Pair = tuple[int, int]


def depthwise_conv2d(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """``F.conv2d(images, weight, bias, stride, padding, groups=C)``, with fast gradients.

    The output is that of PyTorch to the bit. Gradients are equal up to rounding; those of the
    weights are in float32 under autocast too. They can be differentiated again.

    Args:
        images: ``(N, C, H, W)``.
        weight: ``(C, 1, k, l)``.
        bias: ``(C,)``, if there is one.
        stride, padding: down and across.

    Returns:
        ``(N, C, H', W')``.
    """
    plain = images.device.type != "cpu" or not torch.is_grad_enabled()
    if plain or torch.compiler.is_compiling() or not (images.requires_grad or weight.requires_grad):
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))
    if torch.is_autocast_enabled("cpu"):
        images = images.to(torch.get_autocast_dtype("cpu"))
    convolved: Tensor = _Depthwise.apply(images, weight, stride, padding)
    return convolved if bias is None else convolved + bias.to(convolved.dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, images: Tensor, weight: Tensor, stride: Pair, padding: Pair
    ) -> Tensor:  # type: ignore[override]
        context.save_for_backward(images, weight)
        context.stride, context.padding = stride, padding
        return F.conv2d(images, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        images, weight = context.saved_tensors
        stride, padding = context.stride, context.padding
        of_images, of_weight = None, None
        if context.needs_input_grad[0]:
            of_images = _input_gradient(images, weight, gradient, stride, padding)
        if context.needs_input_grad[1]:
            of_weight = _weight_gradient(images, weight, gradient, stride, padding)
        return of_images, of_weight, None, None


def _input_gradient(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    dtype = gradient.dtype if max(stride) == 1 else _at_least_float32(gradient)
    found: Tensor = conv2d_input(
        images.shape, weight.to(dtype), gradient.to(dtype), stride, padding, groups=len(weight)
    )
    return found.to(images.dtype)


def _weight_gradient(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """The sum over images n and pixels p of ``gradient[n, c, p] * images[n, c, stride * p + q]``,
    for each offset q of the kernel.

    For each n and c that is a convolution of the image with the gradient as its kernel, where the
    stride has become the distance between the kernel's elements (dilation): a depthwise convolution
    of N C channels, and oneDNN is fast at its output.
    """
    kernel, sides = weight.shape[2:], gradient.shape[2:]
    if max(kernel) <= FAST_KERNEL and min(sides) >= max(kernel):
        return _native_weight_gradient(images, weight, gradient, stride, padding)
    gradient = gradient.to(_at_least_float32(gradient))
    if max(sides) > LARGEST_SIDE:
        return _native_weight_gradient(images, weight, gradient, stride, padding)
    images = images.to(gradient.dtype)
    count, channels = images.shape[:2]
    # Channels last, with the N C channels of all images innermost: (1, H, W, N C).
    as_one = images.permute(2, 3, 0, 1).flatten(2)[None].permute(0, 3, 1, 2)
    kernels = gradient.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1)[:, None]
    each = F.conv2d(as_one, kernels, None, 1, padding, stride, groups=count * channels)
    each = each[:, :, : kernel[0], : kernel[1]].reshape(count, channels, *kernel)
    return each.sum(dim=0)[:, None].to(weight.dtype)


def _native_weight_gradient(
    images: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    images = images.to(gradient.dtype)
    found: Tensor = conv2d_weight(
        images, weight.shape, gradient, stride, padding, groups=len(weight)
    )
    return found.to(weight.dtype)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with one kernel for each channel, by :func:`depthwise_conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return depthwise_conv2d(input, self.weight, self.bias, self.stride, self.padding)  # type: ignore[arg-type]


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution with one kernel for each channel, without dilation."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels > 1
        and module.dilation == (1, 1)
    )


def accelerate_depthwise(network: nn.Module) -> None:
    """Let the depthwise convolutions of a network compute their gradients fast.

    Parameters, names and outputs stay. Subclasses of nn.Conv2d with a forward pass of their own are
    left alone.
    """
    for module in network.modules():
        plain = type(module) is nn.Conv2d and module.padding_mode == "zeros"
        if plain and is_depthwise(module) and not isinstance(module.padding, str):
            module.__class__ = DepthwiseConv2d
