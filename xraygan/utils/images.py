"""Pictures of image tensors."""

from __future__ import annotations

import numpy as np
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
