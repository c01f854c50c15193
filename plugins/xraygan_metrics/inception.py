"""pytorch-fid's Inception, whose features FID compares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.error import URLError

import torch
import torch.nn.functional as F
import torchvision
from pydantic import Field
from pytorch_fid import inception
from pytorch_fid.inception import InceptionV3
from torch import Tensor, nn

from xraygan import Extractor, UserError
from xraygan.plugin_api import read_weights

#: the maps in which pytorch-fid's four blocks end
LAYERS = ("pool1", "pool2", "mixed6", "features")


class Inception(Extractor):
    """pytorch-fid's Inception, with the 2,048 features that FID compares

    Grey images are repeated to three channels and resized. It returns the feature maps pool1, pool2
    and mixed6 (the default for style; mixed6 for content), and features, `(N, 2048)`, the last
    pooling layer, which metrics read.

    Source: Szegedy et al., arXiv:1512.00567; Heusel et al., arXiv:1706.08500; pytorch-fid (Seitzer,
    2020).

    Args:
        weights: "download" (pytorch-fid's own, kept in torch's hub cache), "random", or the path of
            a local copy of pt_inception-2015-12-05-6726825d.pth (or of the same as .safetensors).
        size: side in pixels to which images are resized; 299 for FID, smaller for a faster loss
            network.
    """

    style_layers = LAYERS[:3]
    content_layer = LAYERS[2]

    def __init__(
        self,
        *,
        weights: Literal["download", "random"] | Path = "download",
        size: Annotated[int, Field(ge=75, le=2048)] = 299,
    ) -> None:
        super().__init__()
        self.size = size
        if isinstance(weights, Path):
            state = read_weights(weights)
        else:
            state = _random() if weights == "random" else _downloaded()
        try:
            self.network = _built(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{weights}: not the weights of pytorch-fid's Inception ({reason})"
            ) from None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        resized = F.interpolate(images, size=(self.size, self.size), mode="bilinear")
        maps = self.network(resized.expand(-1, 3, -1, -1))
        return {**dict(zip(LAYERS, maps, strict=True)), LAYERS[3]: maps[3].flatten(1)}


def _downloaded() -> dict[str, Tensor]:
    # Not by pytorch-fid's own call, which unpickles the download without restrictions.
    try:
        return torch.hub.load_state_dict_from_url(
            inception.FID_WEIGHTS_URL, map_location="cpu", progress=False, check_hash=True,
            weights_only=True,
        )  # fmt: skip
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f'weights = "download": Inception\'s weights could not be fetched ({error}). On a '
            f"machine without internet, get {inception.FID_WEIGHTS_URL} elsewhere and set weights "
            "to that file's path"
        ) from None


def _random() -> dict[str, Tensor]:
    network = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network.state_dict()


def _built(weights: dict[str, Tensor]) -> nn.Module:
    """pytorch-fid's feature network with these weights."""
    fetch = inception.load_state_dict_from_url
    # pytorch-fid's constructor can only fetch its weights, so its fetch function is replaced.
    inception.load_state_dict_from_url = lambda *_, **__: weights
    try:
        return InceptionV3(range(4), resize_input=False, normalize_input=False)
    finally:
        inception.load_state_dict_from_url = fetch
