"""torchvision's networks with ``features``, ``avgpool`` and ``classifier``, for grey images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torchvision
from pydantic import Field
from torch import Tensor, nn

from xraygan import Classifier, Task, UserError
from xraygan.plugin_api import (
    GREY_MEAN,
    GREY_STD,
    download_weights,
    grey_convolution,
    load_matching,
    read_weights,
)

#: both networks halve the size five times
SMALLEST = 32


class _Network(Classifier):
    """A torchvision network whose first convolution takes a grey image.

    Attributes:
        architecture: its name in torchvision.
        stages: the names of the maps behind each of its ``features``; empty for a layer that only
            reduces the size, whose maps are not returned.
    """

    architecture: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]

    def __init__(self, task: Task, weights: Literal["imagenet", "random"] | Path, **rates: float):
        super().__init__()
        if task.image_size < SMALLEST:
            raise UserError(
                f"{self.architecture} takes images of {SMALLEST} pixels or more; data.image_size "
                f"is {task.image_size}"
            )
        self.task = task
        models = torchvision.models
        network: Any = models.get_model(
            self.architecture, weights=None, num_classes=len(task.classes), **rates
        )
        if weights != "random":
            if isinstance(weights, Path):
                published = read_weights(weights)
            else:
                published = download_weights(models.get_model_weights(self.architecture).DEFAULT)
            last = f"classifier.{len(network.classifier) - 1}."
            load_matching(network, published, str(weights), last)
        stem = network.features[0]
        stem[0] = grey_convolution(stem[0], fold=weights != "random")
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = ((images + 1) / 2 - GREY_MEAN) / GREY_STD
        activations: dict[str, Tensor] = {}
        for name, stage in zip(self.stages, self.network.features, strict=True):
            x = stage(x)
            if name:
                activations[name] = x
        *head, last = self.network.classifier
        x = nn.Sequential(self.network.avgpool, *head)(x)
        activations["features"] = x.flatten(1)
        activations["logits"] = last(activations["features"])
        return activations


class ConvNeXtTiny(_Network):
    """ConvNeXt-Tiny for grey images, 28 million parameters

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy. It has
    layer norms and no batch norm, so its output for an image never depends on the batch. Images
    need at least 32 x 32 pixels.

    Source: Liu et al., arXiv:2201.03545; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is newly initialized
            unless the file has one for the same number of classes.
        stochastic_depth: probability with which the last block is skipped for an image in training;
            it decreases linearly to 0 for the first block.
    """

    architecture = "convnext_tiny"
    stages = ("stem", "stage1", "", "stage2", "", "stage3", "", "stage4")

    def __init__(
        self,
        task: Task,
        *,
        weights: Literal["imagenet", "random"] | Path = "random",
        stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__(task, weights, stochastic_depth_prob=stochastic_depth)


class EfficientNetB0(_Network):
    """EfficientNet-B0 for grey images, 4 million parameters

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy. Images
    need at least 32 x 32 pixels. In training its `features` are those after dropout.

    Source: Tan and Le, arXiv:1905.11946; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is newly initialized
            unless the file has one for the same number of classes.
        stochastic_depth: probability with which the last block is skipped for an image in training;
            it decreases linearly to 0 for the first block.
        dropout: share of the features that are dropped before the last layer in training.
    """

    architecture = "efficientnet_b0"
    stages = ("stem", *(f"stage{i}" for i in range(1, 8)), "last")

    def __init__(
        self,
        task: Task,
        *,
        weights: Literal["imagenet", "random"] | Path = "random",
        stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ) -> None:
        super().__init__(task, weights, stochastic_depth_prob=stochastic_depth, dropout=dropout)
