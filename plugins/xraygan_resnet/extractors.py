"""ResNets as fixed extractors: one ruler for the images of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from xraygan import Extractor
from xraygan.plugin_api import load_matching, read_weights

from .networks import feature_maps, grey_resnet

#: how the parameters of a ResNet in a run's checkpoint begin
IN_A_RUN = "network."


class _ResNetFeatures(Extractor):
    """The maps of a grey ResNet's four stages."""

    architecture: ClassVar[str]

    def __init__(self, *, weights: Literal["imagenet", "random"] | Path = "imagenet") -> None:
        super().__init__()
        found = read_weights(weights) if isinstance(weights, Path) else {}
        if not any(name.startswith(IN_A_RUN) for name in found):
            self.network = grey_resnet(self.architecture, weights, outputs=1)
        else:
            self.network = grey_resnet(self.architecture, "random", outputs=1)
            own = {name.removeprefix(IN_A_RUN): value for name, value in found.items()}
            load_matching(self.network, own, str(weights), last="fc.")
        del self.network.fc

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.shape[1] == 3:
            images = images.mean(dim=1, keepdim=True)
        return feature_maps(self.network, images)


class ResNet18Features(_ResNetFeatures):
    """ResNet-18 as a fixed extractor, of ImageNet, of a file, or of another run's classifier

    Feature maps layer1 to layer4 of grey images. Features of a run's own classifier are that run's
    own; where several runs are compared, one network that none of them trained is the ruler.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file:
            torchvision's weights (.pth or .safetensors), or classifier.safetensors from the
            checkpoint of a run with this classifier.
    """

    architecture = "resnet18"


class ResNet50Features(_ResNetFeatures):
    """ResNet-50 as a fixed extractor, of ImageNet, of a file, or of another run's classifier

    Feature maps layer1 to layer4 of grey images. Features of a run's own classifier are that run's
    own; where several runs are compared, one network that none of them trained is the ruler.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file:
            torchvision's weights (.pth or .safetensors), or classifier.safetensors from the
            checkpoint of a run with this classifier.
    """

    architecture = "resnet50"
