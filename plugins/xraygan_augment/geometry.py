"""Affine transformations of images.

PyTorch's ``grid_sample`` cannot be differentiated twice in all supported versions, and its
gradients are not deterministic on a GPU.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def scaled(x: Tensor, y: Tensor) -> Tensor:
    """Matrices ``(n, 3, 3)`` that multiply coordinates by ``(n,)``; -1 is a mirror image."""
    return _matrices(x, 0.0, 0.0, 0.0, y, 0.0)


def turned(angle: Tensor) -> Tensor:
    """Matrices ``(n, 3, 3)`` that rotate by an angle ``(n,)`` in radians."""
    cos, sin = angle.cos(), angle.sin()
    return _matrices(cos, -sin, 0.0, sin, cos, 0.0)


def shifted(x: Tensor, y: Tensor) -> Tensor:
    """Matrices ``(n, 3, 3)`` that move by ``(n,)`` pixels."""
    return _matrices(torch.ones_like(x), 0.0, x, 0.0, 1.0, y)


def _matrices(first: Tensor, *others: Tensor | float) -> Tensor:
    entries = [first, *others, 0.0, 0.0, 1.0]
    columns = [x if isinstance(x, Tensor) else torch.full_like(first, x) for x in entries]
    return torch.stack(columns, dim=1).view(-1, 3, 3)


def chained(*matrices: Tensor) -> Tensor:
    """The product of matrices ``(n, 3, 3)``, in full precision also under mixed precision."""
    return reduce(lambda a, b: (a[:, :, :, None] * b[:, None]).sum(dim=2), matrices)


def resampled(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample images ``(n, 1, S, S)``: bilinear, reflected at the edges.

    Args:
        matrices: ``(n, 3, 3)``, which map a pixel's (x, y, 1), in pixels from the centre, x to the
            right and y down, to the position in the image from which its value is interpolated.
    """
    n, _, size, _ = images.shape
    along = torch.arange(size, device=images.device, dtype=matrices.dtype) - (size - 1) / 2

    def between(row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pixels before and after a coordinate ``(n, S, S)``, and the weight of the latter."""
        a, b, c = row[:, :, None, None].unbind(dim=1)
        # The reflected image has a period of 2 S pixels, whose second half runs backwards.
        edge = torch.remainder(a * along + b * along[:, None] + c + size / 2, 2 * size)
        position = (size - (size - edge).abs() - 0.5).clamp(0, size - 1)
        before = position.floor()
        after = (before + 1).clamp(max=size - 1)
        return before.long(), after.long(), (position - before).to(images.dtype)

    left, right, x = between(matrices[:, 0])
    above, below, y = between(matrices[:, 1])
    flat = images.reshape(n, size * size)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(1, (row * size + column).view(n, -1)).view(n, 1, size, size)

    x, y = x[:, None], y[:, None]
    upper = torch.lerp(at(above, left), at(above, right), x)
    lower = torch.lerp(at(below, left), at(below, right), x)
    return torch.lerp(upper, lower, y)
