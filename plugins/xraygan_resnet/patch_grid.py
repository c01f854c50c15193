"""Findings in the patches of a grid, by multiple-instance learning (Li et al.)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from xraygan import Classifier, Task

from .networks import feature_maps, grey_trunk


def to_grid(maps: Tensor, grid: int) -> Tensor:
    """Resize maps ``(N, C, h, h)`` to ``(N, C, P, P)``: bilinear if h < P, maxima if h > P."""
    size = maps.shape[-1]
    if size < grid:
        return F.interpolate(maps, size=(grid, grid), mode="bilinear", align_corners=False)
    if size == grid:
        return maps
    if maps.device.type == "cpu":
        return F.adaptive_max_pool2d(maps, grid)
    return window_maxima(window_maxima(maps, grid, 3), grid, 2)


def window_maxima(maps: Tensor, count: int, dim: int) -> Tensor:
    """The maxima of the windows of ``adaptive_max_pool2d`` along one dimension.

    Along the columns, then the rows: its values, and its gradients, which go to the first maximum.
    CUDA adds up the gradients of that function in no fixed order where windows overlap.

    Args:
        count: the windows; window i of maps of size h is from floor(i h / count) to before
            ceil((i + 1) h / count).
    """
    size = maps.shape[dim]
    bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    maxima = [maps.narrow(dim, a, b - a).max(dim=dim).values for a, b in bounds]
    return torch.stack(maxima, dim=dim)


def image_logits(patches: Tensor, lowest: float = 0.0) -> Tensor:
    """Log odds that at least one patch has a finding.

    p = 1 - prod_j q_j with q_j = 1 - (1 - a) p_j, where p_j are the sigmoids of the patches' logits
    and a is ``lowest``; a = 0 is the product of the 1 - p_j themselves.

    Args:
        patches: logits z, ``(N, K, P, P)``.
        lowest: a, in [0, 1).

    Returns:
        log p - log(1 - p), ``(N, K)`` float64, whose sigmoid is p.
    """
    # The product is a sum of logarithms, in float64, because a product of float32 factors would
    # be 0 if 1 - p is below e^-103, and 1 if p is below e^-17. The sum keeps p apart from 1 at any
    # size of 1 - p, and from 0 down to e^-690.
    z = patches.double().flatten(2)
    # q = (1 + a e^z) / (1 + e^z), so -log q is a difference of softplus(z) = -logsigmoid(-z).
    shifted = z + (math.log(lowest) if lowest > 0 else -math.inf)
    absent = (F.logsigmoid(-shifted) - F.logsigmoid(-z)).sum(dim=2)  # -log(1 - p)
    absent = absent.clamp(min=1e-300)  # if no patch has the finding, avoid the logarithm of 0
    return absent + (-(-absent).expm1()).log()


def _starting_bias(grid: int, lowest: float) -> float:
    """The patch logit at which an image has a finding with probability 1/2, at most 0."""
    probability = min(0.5, (1 - 0.5 ** (1 / grid**2)) / (1 - lowest))
    return math.log(probability / (1 - probability))


class PatchGrid(Classifier):
    """Findings located in the patches of a grid by multiple-instance learning (Li et al.)

    The backbone's last maps are resized to P x P (bilinear if they are smaller, maxima if they are
    larger). A 3 x 3 convolution with batch norm and ReLU and a 1 x 1 convolution then give each
    patch j a probability p_j of each finding. An image has a finding if any patch has it:
    p = 1 - prod_j (1 - p_j). The paper maps each factor from [0, 1] to [0.98, 1], so that p changes
    smoothly: 1 - p_j becomes 0.98 + 0.02 (1 - p_j), and p is at most 1 - 0.98^(P P).

    The logits are log p - log(1 - p), so that their sigmoid is p. For exclusive classes, their
    softmax is the distribution of K independent findings under the condition that exactly one is
    present: P(only k) is proportional to p_k / (1 - p_k).

    `features` is the mean over the patches of the last layer's input. The last bias is initialized
    so that p is 1/2, as for an untrained sigmoid.

    Source: Li et al., CVPR 2018, arXiv:1711.06373, without its supervision by bounding boxes.

    Args:
        backbone: "resnet18" or "resnet50".
        weights: of the backbone: "imagenet" (torchvision's, downloaded), "random", or the path of a
            local file of torchvision's weights (.pth or .safetensors).
        grid: P, patches along a side.
        width: filters of the 3 x 3 convolution.
        lowest: the lower bound of the factors; 0 leaves 1 - p_j unchanged. On a small grid 0.98
            limits p: to 0.28 for P = 4, but to 0.99 for P = 16.
    """

    def __init__(
        self,
        task: Task,
        *,
        backbone: Literal["resnet18", "resnet50"] = "resnet50",
        weights: Literal["imagenet", "random"] | Path = "random",
        grid: Annotated[int, Field(gt=0, le=1024)] = 16,
        width: Annotated[int, Field(gt=0, le=4096)] = 512,
        lowest: Annotated[float, Field(ge=0, lt=1)] = 0.98,
    ) -> None:
        super().__init__()
        self.task = task
        self.grid = grid
        self.lowest = lowest
        self.network, channels = grey_trunk(backbone, weights)
        self.recognition = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.last = nn.Conv2d(width, len(task.classes), 1)
        nn.init.constant_(self.last.bias, _starting_bias(grid, lowest))  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        activations = feature_maps(self.network, images)
        patches = self.recognition(to_grid(activations["layer4"], self.grid))
        activations["features"] = patches.mean(dim=(2, 3))
        activations["logits"] = image_logits(self.last(patches), self.lowest).float()
        return activations
