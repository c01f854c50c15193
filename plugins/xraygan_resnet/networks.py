"""torchvision's ResNets with one input channel and named activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torchvision
from torch import Tensor, nn

from xraygan import Classifier, Task
from xraygan.weights import download_weights, load_matching, read_weights

#: ImageNet's mean and standard deviation of a grey pixel in [0, 1]: the means over the channels
GREY_MEAN, GREY_STD = 0.449, 0.226


class _ResNet(Classifier):
    """A ResNet whose first convolution takes a grey image.

    Published weights expect three channels. Their first convolution is summed over the channels,
    which for equal channels is the same function at a third of the cost.
    """

    architecture: ClassVar[str]

    def __init__(
        self, task: Task, *, weights: Literal["imagenet", "random"] | Path = "random"
    ) -> None:
        super().__init__()
        self.task = task
        network = torchvision.models.get_model(
            self.architecture, weights=None, num_classes=len(task.classes)
        )
        if weights != "random":
            load_matching(network, self._published(weights), str(weights), last="fc.")
        network.conv1 = _grey(network.conv1, fold=weights != "random")
        self.network = network

    def _published(self, weights: Any) -> dict[str, Tensor]:
        if isinstance(weights, Path):
            return read_weights(weights)
        return download_weights(torchvision.models.get_model_weights(self.architecture).DEFAULT)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        net = self.network
        x = ((images + 1) / 2 - GREY_MEAN) / GREY_STD
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        activations: dict[str, Tensor] = {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = activations[name] = getattr(net, name)(x)
        activations["features"] = net.avgpool(x).flatten(1)
        activations["logits"] = net.fc(activations["features"])
        return activations


def _grey(conv: Any, *, fold: bool) -> nn.Conv2d:
    grey = nn.Conv2d(
        1,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        bias=False,
    )
    if fold:
        grey.weight.data = conv.weight.data.sum(dim=1, keepdim=True)
    else:
        nn.init.kaiming_normal_(grey.weight, mode="fan_out", nonlinearity="relu")
    return grey


class ResNet18(_ResNet):
    """ResNet-18 for grey images, 11 million parameters

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is always drawn anew
            unless the file has one for as many classes.
    """

    architecture = "resnet18"


class ResNet34(_ResNet):
    """ResNet-34 for grey images, 21 million parameters

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is always drawn anew
            unless the file has one for as many classes.
    """

    architecture = "resnet34"


class ResNet50(_ResNet):
    """ResNet-50 for grey images, 24 million parameters; the paper's classifier

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation; Sec. 5.4 of
    XRAY-GAN.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors). The last layer is always drawn anew
            unless the file has one for as many classes.
    """

    architecture = "resnet50"
