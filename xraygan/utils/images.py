"""Pictures of image tensors, and their sizes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def image_grid(images: Tensor, columns: int = 8) -> Image.Image:
    """A grid of ``(N, S, S)`` uint8 images as one picture: ``columns`` in a row, 2 pixels apart."""
    n, side, _ = images.shape
    rows, gap = -(-n // columns), 2
    canvas = np.zeros((rows * (side + gap) - gap, columns * (side + gap) - gap), dtype=np.uint8)
    for i, image in enumerate(images.numpy()):
        top, left = (i // columns) * (side + gap), (i % columns) * (side + gap)
        canvas[top : top + side, left : left + side] = image
    return Image.fromarray(canvas)


def resize_square(images: Tensor, size: int) -> Tensor:
    """Resize square images ``(N, C, S, S)`` to ``(N, C, size, size)``: linearly, with antialiasing.

    It is a product with a matrix, because the gradient of interpolation is not deterministic on a
    GPU.
    """
    side = images.shape[-1]
    if side == size:
        return images
    unit = torch.eye(side, dtype=images.dtype, device=images.device)[None, None]
    rows = F.interpolate(unit, size=(size, side), mode="bilinear", antialias=True)[0, 0]
    return rows @ images @ rows.mT
