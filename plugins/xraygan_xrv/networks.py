"""TorchXRayVision's DenseNet-121, as a classifier and as an extractor.

The library publishes its weights as pickles of whole networks, which can run code when they are
loaded. This module never loads them: the user converts them once to safetensors
(docs/howto/pretrained.md).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xraygan import Classifier, Extractor, Task, UserError
from xraygan.plugin_api import load_matching, read_weights, resize_square

Weights = (
    Literal[
        "random",
        "densenet121-res224-all",
        "densenet121-res224-rsna",
        "densenet121-res224-nih",
        "densenet121-res224-pc",
        "densenet121-res224-chex",
        "densenet121-res224-mimic_nb",
        "densenet121-res224-mimic_ch",
    ]
    | Path
)
Size = Annotated[int, Field(ge=32, le=2048)]

RANGE = 1024.0  # the library's images are in [-1024, 1024]


def library() -> Any:
    """The module torchxrayvision.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # its import turns off all warnings of the process
            import torchxrayvision
    except ImportError:
        raise UserError(
            "the package torchxrayvision is not installed: pip install 'xraygan[xrv]'"
        ) from None
    return torchxrayvision


def converted(name: str) -> Path:
    """The safetensors file that the user has converted published weights to.

    Raises:
        UserError: the file does not exist.
    """
    path = Path(library().utils.get_cache_dir()) / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(
            f'weights = "{name}": there is no {path}. torchxrayvision publishes a pickle, which '
            "could run any code, so it is not loaded here; docs/howto/pretrained.md shows how to "
            'convert it once. Or set weights to the path of a file of its tensors, or to "random"'
        )
    return path


def densenet(weights: Any, outputs: int) -> tuple[Any, dict[str, Tensor]]:
    """The library's DenseNet-121, and the tensors of the last layer in its weights.

    The last layer of the network is newly initialized.
    """
    network = library().models.DenseNet(num_classes=outputs)
    if weights == "random":
        return network, {}
    path = weights if isinstance(weights, Path) else converted(weights)
    tensors = read_weights(path)
    last = {k: tensors.pop(k) for k in list(tensors) if k.startswith("classifier.")}
    load_matching(network, tensors, str(path), last="classifier.")
    return network, last


def copy_findings(network: Any, classes: tuple[str, ...], last: dict[str, Tensor]) -> None:
    """Copy the rows of findings that the library has too from ``last`` to the last layer.

    Copies nothing if ``last`` is not a layer for all of the library's findings.
    """
    known = library().models.DenseNet.targets
    rows = {k: known.index(finding) for k, finding in enumerate(classes) if finding in known}
    for name, own in network.classifier.named_parameters():
        published = last.get(f"classifier.{name}")
        if rows and published is not None and len(published) == len(known):
            own.data[list(rows)] = published[list(rows.values())].to(own.dtype)


def adapted(images: Tensor, size: int) -> Tensor:
    """Convert images ``(N, 1 or 3, S, S)`` in [-1, 1] to the library's format.

    The result is ``(N, 1, size, size)`` in [-1024, 1024], resized linearly with antialiasing, as
    the library does it.
    """
    return resize_square(images.mean(dim=1, keepdim=True) * RANGE, size)


def feature_maps(features: Any, images: Tensor, size: int) -> dict[str, Tensor]:
    """The maps behind the dense blocks and the last ReLU, and their mean, ``features``."""
    x = adapted(images, size)
    maps: dict[str, Tensor] = {}
    for name, layer in features.named_children():
        x = layer(x)
        if name.startswith("denseblock"):
            maps[name] = x
    maps["relu5"] = F.relu(x)
    maps["features"] = maps["relu5"].mean(dim=(2, 3))
    return maps


class XRVClassifier(Classifier):
    """TorchXRayVision's DenseNet-121, which can start from weights of chest X-rays

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy. Images
    are converted from [-1, 1] to the library's [-1024, 1024] and resized to the size at which its
    weights were trained. The rows of the last layer of findings that the library has too (Effusion,
    Hernia, ...) start from its weights; the others are newly initialized.

    It needs a package: ``pip install 'xraygan[xrv]'``.

    Source: Cohen et al., arXiv:2111.00595; Huang et al., arXiv:1608.06993.

    Args:
        weights: "random", the path of a local file of the network's tensors (.safetensors, or .pth
            without code), or the library's name of published weights, which you convert once: see
            docs/howto/pretrained.md.
        size: side in pixels to which images are resized; the published weights were trained at 224.
    """

    def __init__(self, task: Task, *, weights: Weights = "random", size: Size = 224) -> None:
        super().__init__()
        self.task = task
        self.size = size
        self.network, last = densenet(weights, len(task.classes))
        copy_findings(self.network, task.classes, last)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        activations = feature_maps(self.network.features, images, self.size)
        return activations | {"logits": self.network.classifier(activations["features"])}


class XRVExtractor(Extractor):
    """TorchXRayVision's DenseNet-121 as a loss network that was trained on chest X-rays

    Feature maps `denseblock1` to `denseblock4` and `relu5`, and the mean `features` ``(N, 1024)``
    of the last for Frechet distances. Images are converted from [-1, 1] to the library's
    [-1024, 1024] and resized to the size at which its weights were trained; three channels are
    averaged to grey.

    It needs a package: ``pip install 'xraygan[xrv]'``.

    Source: Cohen et al., arXiv:2111.00595; Huang et al., arXiv:1608.06993.

    Args:
        weights: "random", the path of a local file of the network's tensors (.safetensors, or .pth
            without code), or the library's name of published weights, which you convert once: see
            docs/howto/pretrained.md.
        size: side in pixels to which images are resized; the published weights were trained at 224.
    """

    style_layers = ("denseblock1", "denseblock2", "denseblock3", "denseblock4")
    content_layer = "denseblock3"

    def __init__(self, *, weights: Weights = "densenet121-res224-all", size: Size = 224) -> None:
        super().__init__()
        self.size = size
        self.features = densenet(weights, 1)[0].features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return feature_maps(self.features, images, self.size)
