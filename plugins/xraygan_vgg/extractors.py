"""Loss networks: the style and content losses compare their feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from xraygan import Extractor, Step, UserError
from xraygan.plugin_api import download_weights, load_matching, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _VGG(Extractor):
    """The convolutions of a torchvision VGG up to the deepest map that is returned."""

    architecture: ClassVar[str]
    mean: Tensor
    std: Tensor
    style_layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    content_layer = "relu4_2"

    def __init__(
        self,
        *,
        weights: Literal["imagenet", "random"] | Path = "imagenet",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        network: Any = torchvision.models.get_model(self.architecture, weights=None)
        convolutions = network.features
        if weights == "random":
            pass
        elif isinstance(weights, Path):
            _load(convolutions, read_weights(weights), str(weights))
        else:
            published = torchvision.models.get_model_weights(self.architecture).DEFAULT
            _load(convolutions, download_weights(published), weights)
        self.normalize = normalize
        self.names: list[str | None] = []
        self.layers = nn.ModuleList()
        wanted = {*self.style_layers, self.content_layer}
        block, count = 1, 0
        for layer in convolutions:
            name = None
            if isinstance(layer, nn.ReLU):
                count += 1
                name = f"relu{block}_{count}"
            elif isinstance(layer, nn.MaxPool2d):
                block, count = block + 1, 0
            self.layers.append(layer)
            self.names.append(name if name in wanted else None)
            wanted.discard(name)
            if not wanted:
                break
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        x = self._first(images)
        for name, layer in zip(self.names[1:], self.layers[1:], strict=True):
            x = layer(x)
            if name is not None:
                maps[name] = x
        return maps

    def _first(self, images: Tensor) -> Tensor:
        """The first convolution, for images with three channels or for grey images.

        Instead of repeating a grey image to three channels, the sum over channels and the
        normalization are folded into the weights. The constant shift of the normalization is the
        weight of an additional plane of ones. It cannot be folded into the bias, because the border
        is padded with 0 after the normalization.
        """
        convolution: Any = self.layers[0]
        scale, shift = torch.ones_like(self.mean), torch.zeros_like(self.mean)
        if self.normalize:
            scale, shift = 0.5 / self.std, (0.5 - self.mean) / self.std
        if images.shape[1] == 3:
            return convolution(images * scale + shift)
        folded = torch.stack(
            [(convolution.weight * factor).sum(dim=1) for factor in (scale, shift)], dim=1
        )
        planes = torch.cat([images, torch.ones_like(images)], dim=1)
        # A convolution's output has the memory format of its input.
        planes = planes.contiguous(memory_format=torch.channels_last)
        return F.conv2d(planes, folded, convolution.bias, padding=convolution.padding)


def _load(convolutions: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    prefix = "features."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    load_matching(convolutions, own, source, last="(none)")


class VGG16(_VGG):
    """VGG-16 as a loss network

    Feature maps relu1_1, 2_1, 3_1, 4_1, 5_1 for style and relu4_2 for content. Grey images are
    repeated to three channels and normalized with ImageNet's statistics.

    Source: Simonyan and Zisserman, arXiv:1409.1556; Johnson et al., arXiv:1603.08155.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors).
        normalize: normalize images in [-1, 1] with ImageNet's mean and standard deviation.
    """

    architecture = "vgg16"


class VGG19(_VGG):
    """VGG-19 as a loss network; the paper's loss network

    Feature maps relu1_1, 2_1, 3_1, 4_1, 5_1 for style and relu4_2 for content. Grey images are
    repeated to three channels and normalized with ImageNet's statistics.

    Source: Simonyan and Zisserman, arXiv:1409.1556; Johnson et al., arXiv:1603.08155.

    Args:
        weights: "imagenet" (torchvision's, downloaded), "random", or the path of a local file of
            torchvision's weights (.pth or .safetensors).
        normalize: normalize images in [-1, 1] with ImageNet's mean and standard deviation.
    """

    architecture = "vgg19"


class ClassifierFeatures(Extractor):
    """The run's own classifier as a loss network, without a download or additional passes

    Style and content are compared in the classifier's feature maps. For the real and the generated
    batch these are the maps that the step has already computed. The losses do not train the
    classifier unless a score names it in `trains`.
    """

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError("it has no network of its own; call extract")

    def extract(self, step: Step, images: Tensor | str) -> dict[str, Tensor]:
        if "classifier" not in step.networks:
            raise UserError("[extractors.classifier]: the recipe has no [classifier]")
        if isinstance(images, str):
            activations = step.real_activations if images == "real" else step.fake_activations
        else:
            activations = step.classify(images.mean(dim=1, keepdim=True))  # three channels to grey
        return {name: maps for name, maps in activations.items() if maps.ndim == 4}
