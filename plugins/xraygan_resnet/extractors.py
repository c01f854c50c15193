"""ResNets as fixed extractors, to compare the images of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from xraygan import Extractor
from xraygan.plugin_api import load_matching, read_weights

from .networks import feature_maps, grey_resnet

#: prefix of the parameters of a ResNet in a run's checkpoint
IN_A_RUN = "network."


class _ResNetFeatures(Extractor):
    """The maps of a grey ResNet's four stages."""

    architecture: ClassVar[str]

    def __init__(self, *, weights: Literal["imagenet", "random"] | Path = "imagenet") -> None:
        super().__init__()
        state = read_weights(weights) if isinstance(weights, Path) else {}
        if not any(name.startswith(IN_A_RUN) for name in state):
            self.network = grey_resnet(self.architecture, weights, outputs=1)
        else:
            self.network = grey_resnet(self.architecture, "random", outputs=1)
            own = {name.removeprefix(IN_A_RUN): value for name, value in state.items()}
            load_matching(self.network, own, str(weights), last="fc.")
        del self.network.fc

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if images.shape[1] == 3:
            images = images.mean(dim=1, keepdim=True)
        return feature_maps(self.network, images)


class ResNet18Features(_ResNetFeatures):
    """ResNet-18 as a fixed extractor, with weights of ImageNet, a file or another run's classifier

    Feature maps layer1 to layer4 of grey images. The features of a run's own classifier differ from
    run to run; to compare several runs, use one network that none of them trained.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file:
            torchvision's weights (.pth or .safetensors), or classifier.safetensors from the
            checkpoint of a run with this classifier.
    """

    architecture = "resnet18"


class ResNet50Features(_ResNetFeatures):
    """ResNet-50 as a fixed extractor, with weights of ImageNet, a file or another run's classifier

    Feature maps layer1 to layer4 of grey images. The features of a run's own classifier differ from
    run to run; to compare several runs, use one network that none of them trained.

    Source: He, Zhang, Ren and Sun, arXiv:1512.03385; torchvision's implementation.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file:
            torchvision's weights (.pth or .safetensors), or classifier.safetensors from the
            checkpoint of a run with this classifier.
    """

    architecture = "resnet50"
