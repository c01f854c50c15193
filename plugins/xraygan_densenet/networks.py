"""torchvision's DenseNet-121 with one input channel, named activations and CheXNet's loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from xraygan import Classifier, Task, UserError
from xraygan.plugin_api import (
    GREY_MEAN,
    GREY_STD,
    download_weights,
    grey_convolution,
    load_matching,
    read_weights,
)

#: side of the smallest image that the network can halve as often as it does
SMALLEST = 29


def present_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the parameter names of torchvision's current DenseNet.

    The published files are older than the rule that a module's name has no dot: they have
    ``norm.1`` and ``conv.2`` for the network's ``norm1`` and ``conv2``.
    """
    dotted = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {dotted.sub(r"\1\2", name): value for name, value in weights.items()}


class DenseNet121(Classifier):
    """DenseNet-121 for grey images, 7 million parameters; CheXNet's network and loss

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy. The
    loss can weight the presence and absence of a finding by CheXNet's Eq. 1,
    L = -w+ y log p - w- (1 - y) log(1 - p) with w+ = |N| / (|P| + |N|), w- = |P| / (|P| + |N|),
    where |P| and |N| are the numbers of training images with and without it; the loss of an image
    is the mean over its findings. For exclusive classes it is -w+_y log p_y, which is Eq. 1 for two
    classes. Images need at least 29 x 29 pixels.

    Source: Huang, Liu, van der Maaten and Weinberger, arXiv:1608.06993; Rajpurkar et al.,
    arXiv:1711.05225; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is newly initialized
            unless the file has one for the same number of classes.
        class_weights: weight the loss by Eq. 1; false for the unweighted cross entropies.
    """

    positive: Tensor | None

    def __init__(
        self,
        task: Task,
        *,
        weights: Literal["imagenet", "random"] | Path = "random",
        class_weights: bool = False,
    ) -> None:
        super().__init__()
        if task.image_size < SMALLEST:
            raise UserError(
                f"densenet121 takes images of {SMALLEST} pixels or more; data.image_size is "
                f"{task.image_size}"
            )
        self.task = task
        network: Any = torchvision.models.densenet121(weights=None, num_classes=len(task.classes))
        if weights != "random":
            if isinstance(weights, Path):
                published = read_weights(weights)
            else:
                published = download_weights(torchvision.models.DenseNet121_Weights.DEFAULT)
            load_matching(network, present_names(published), str(weights), last="classifier.")
        first = network.features.conv0
        network.features.conv0 = grey_convolution(first, fold=weights != "random")
        self.network = network
        positive = None
        # The counts are None if a recipe is only checked, without its data.
        if class_weights and task.counts is not None and task.images is not None:
            positive = 1 - torch.tensor(task.counts, dtype=torch.float32) / task.images
        self.register_buffer("positive", positive, persistent=False)  # w+; w- is 1 - w+

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = ((images + 1) / 2 - GREY_MEAN) / GREY_STD
        activations: dict[str, Tensor] = {}
        for name, layer in self.network.features.named_children():
            x = layer(x)
            if name.startswith("denseblock"):
                activations[name] = x
        x = activations["relu5"] = F.relu(x)
        activations["features"] = x.mean(dim=(2, 3))
        activations["logits"] = self.network.classifier(activations["features"])
        return activations

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Classification loss of each image, ``(N,)``, in nats; see the class."""
        if self.positive is None:
            return super().losses(logits, labels)
        weights = self.positive.to(logits.dtype)
        if self.task.exclusive:
            return F.cross_entropy(logits, labels, weights, reduction="none")
        y = labels.to(logits.dtype)
        weights = y * weights + (1 - y) * (1 - weights)
        return F.binary_cross_entropy_with_logits(logits, y, weights, reduction="none").mean(dim=1)
