"""The images themselves as features."""

from __future__ import annotations

import math
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xraygan import Extractor, UserError


class Pixels(Extractor):
    """The images themselves as features: pixels, averaged over squares

    One vector for each image: its pixels, which are in -1..1, divided by the square root of their
    number. The distance of two vectors is then the root mean square difference of the images'
    pixels, whatever the size. No network runs, so a distance of pixels costs next to nothing.

    Args:
        square: side in pixels of the squares whose mean is one feature; 1 for every pixel. Details
            smaller than a square are not compared.
    """

    def __init__(self, *, square: Annotated[int, Field(gt=0, le=256)] = 2) -> None:
        super().__init__()
        self.square = square

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.square > images.shape[-1]:
            raise UserError(
                f"square: {self.square} pixels are more than the {images.shape[-1]} pixels of an "
                "image's side; set a smaller square"
            )
        grey = images.mean(dim=1, keepdim=True)
        pixels = F.avg_pool2d(grey, self.square).flatten(1)
        return {"pixels": pixels / math.sqrt(pixels.shape[1])}
