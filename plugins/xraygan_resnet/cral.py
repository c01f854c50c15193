"""Category-wise residual attention (CRAL) over a ResNet's last maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from xraygan import Classifier, Task

from .networks import feature_maps, grey_trunk


def attended_logits(maps: Tensor, attention: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The logit of each category, from maps that are weighted by its own residual attention.

    s_k = w_k . mean_x[(1 + A_k(x)) f(x)] + b_k, where x runs over the h w positions. The linear
    classifier and the mean commute: s_k = mean_x[(1 + A_k(x)) (w_k . f(x))] + b_k, which needs no
    weighted maps for each category.

    Args:
        maps: f, ``(N, C, h, w)``.
        attention: A, ``(N, K, h, w)``.
        weight: w, ``(K, C)``.
        bias: b, ``(K,)``.

    Returns:
        ``(N, K)``.
    """
    scores = F.conv2d(maps, weight[:, :, None, None])
    return ((1 + attention) * scores).mean(dim=(2, 3)) + bias


class CRAL(Classifier):
    """Category-wise residual attention learning on a ResNet (Guan and Huang)

    An attention module gives each of the K categories a map A_k over the positions of the
    backbone's last maps f, and each category is classified from its own pooled features:
    s_k = w_k . mean_x[(1 + A_k(x)) f(x)] + b_k. Softmax over exclusive classes, or sigmoids over
    findings, by the recipe's label policy.

    The module is a 1 x 1 and a 3 x 3 convolution with batch norm and ReLU, and a 1 x 1 convolution
    to K maps. The last layer gets one vector for each category; `features` is the mean of these
    vectors, mean_x[(1 + mean_k A_k(x)) f(x)], with the length of the backbone's features.

    Source: Guan and Huang, Pattern Recognition Letters 130 (2020), 259-266.

    Args:
        backbone: "resnet18" or "resnet50".
        weights: of the backbone: "imagenet" (torchvision's, downloaded), "random", or the path of a
            local file of torchvision's weights (.pth or .safetensors).
        attention: the function that maps A_k to [0, 1]: "sigmoid" of each position, or "softmax"
            over the positions of a map, whose sum is 1.
        width: filters of the attention module.
    """

    def __init__(
        self,
        task: Task,
        *,
        backbone: Literal["resnet18", "resnet50"] = "resnet50",
        weights: Literal["imagenet", "random"] | Path = "random",
        attention: Literal["sigmoid", "softmax"] = "sigmoid",
        width: Annotated[int, Field(gt=0, le=4096)] = 512,
    ) -> None:
        super().__init__()
        self.task = task
        self.normalization = attention
        self.network, channels = grey_trunk(backbone, weights)
        self.attention = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, len(task.classes), 1),
        )
        self.last = nn.Linear(channels, len(task.classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        activations = feature_maps(self.network, images)
        maps = activations["layer4"]
        attention = self.attend(maps)
        shared = attention.mean(dim=1, keepdim=True)
        activations["features"] = ((1 + shared) * maps).mean(dim=(2, 3))
        activations["logits"] = attended_logits(maps, attention, self.last.weight, self.last.bias)
        return activations

    def attend(self, maps: Tensor) -> Tensor:
        """Attention ``(N, K, h, w)`` in [0, 1] to the positions of maps ``(N, C, h, w)``."""
        raw = self.attention(maps)
        if self.normalization == "sigmoid":
            return raw.sigmoid()
        return raw.flatten(2).softmax(dim=2).view_as(raw)
