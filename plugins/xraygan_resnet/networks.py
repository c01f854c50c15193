"""torchvision's ResNets with one input channel and named activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torchvision
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


def grey_resnet(architecture: str, weights: Any, outputs: int) -> Any:
    """torchvision's ResNet with one input channel and a last layer of ``outputs``.

    Args:
        architecture: its name in torchvision.
        weights: "imagenet", "random" or a path.
        outputs: the number of outputs of the last layer.
    """
    network = torchvision.models.get_model(architecture, weights=None, num_classes=outputs)
    if weights != "random":
        if isinstance(weights, Path):
            published = read_weights(weights)
        else:
            published = download_weights(torchvision.models.get_model_weights(architecture).DEFAULT)
        load_matching(network, published, str(weights), last="fc.")
    network.conv1 = grey_convolution(network.conv1, fold=weights != "random")
    return network


def grey_trunk(architecture: str, weights: Any) -> tuple[Any, int]:
    """:func:`grey_resnet` without its last layer, and the number of channels of its last maps."""
    network = grey_resnet(architecture, weights, outputs=1)
    channels = network.fc.in_features
    network.fc = nn.Identity()
    return network, channels


def feature_maps(network: Any, images: Tensor) -> dict[str, Tensor]:
    """The maps of the four stages of a grey ResNet for images ``(N, 1, S, S)`` in [-1, 1]."""
    x = ((images + 1) / 2 - GREY_MEAN) / GREY_STD
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    maps: dict[str, Tensor] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = maps[name] = getattr(network, name)(x)
    return maps


class _ResNet(Classifier):
    """A ResNet whose first convolution takes a grey image."""

    architecture: ClassVar[str]

    def __init__(
        self,
        task: Task,
        *,
        weights: Literal["imagenet", "random"] | Path = "random",
        metadata: bool = False,
    ) -> None:
        super().__init__()
        if metadata and not task.metadata:
            raise UserError(
                "metadata = true, but [data] metadata is empty; set it to some of age, sex, view"
            )
        self.task = task
        self.metadata = metadata
        self.network = grey_resnet(self.architecture, weights, len(task.classes))
        if metadata:
            size = task.condition_size - len(task.classes)
            # The attribute's name is a key of checkpoints, so it stays.
            self.told = nn.Linear(size, len(task.classes), bias=False)

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        net = self.network
        activations = feature_maps(net, images)
        activations["features"] = net.avgpool(activations["layer4"]).flatten(1)
        activations["logits"] = net.fc(activations["features"])
        if self.metadata and metadata is not None:
            activations["logits"] = activations["logits"] + self.told(metadata)
        return activations


class ResNet18(_ResNet):
    """ResNet-18 for grey images, 11 million parameters

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is newly initialized
            unless the file has one for the same number of classes.
        metadata: use the metadata of [data] metadata too: the logits are linear in the features and
            in the metadata.
    """

    architecture = "resnet18"


class ResNet34(_ResNet):
    """ResNet-34 for grey images, 21 million parameters

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is newly initialized
            unless the file has one for the same number of classes.
        metadata: use the metadata of [data] metadata too: the logits are linear in the features and
            in the metadata.
    """

    architecture = "resnet34"


class ResNet50(_ResNet):
    """ResNet-50 for grey images, 24 million parameters; the paper's classifier

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation; Sec. 5.4 of
    XRAY-GAN.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is newly initialized
            unless the file has one for the same number of classes.
        metadata: use the metadata of [data] metadata too: the logits are linear in the features and
            in the metadata.
    """

    architecture = "resnet50"
