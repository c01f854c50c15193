"""The two networks of Radford, Metz and Chintala, arXiv:1511.06434."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xraygan import Discriminator, Generator, Task, UserError

SIZES = (32, 64, 128, 256)
MAX_WIDTH = 1024


def widths_for(image_size: int, width: int) -> list[int]:
    """Channels from the finest feature map to the 4 x 4 one: doubled each time, at most 1024.

    At 128 pixels and width 64 they are the paper's: 64, 128, 256, 512, 1024.

    Raises:
        UserError: there is no DCGAN of that size.
    """
    if image_size not in SIZES:
        sizes = ", ".join(map(str, SIZES))
        raise UserError(f"dcgan makes images of {sizes} pixels; data.image_size is {image_size}")
    stages = image_size.bit_length() - 3  # 4 x 4 is doubled up to image_size
    return [min(width * 2**i, MAX_WIDTH) for i in range(stages)]


def initialize(network: nn.Module) -> None:
    """Draw the weights as the DCGAN paper does: N(0, 0.02), batch norm gains N(1, 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


class DCGANGenerator(Generator):
    """DCGAN generator: transposed 4 x 4 convolutions, batch norm, ReLU, tanh

    Maps a latent vector to 4 x 4 and doubles the size to 32, 64, 128 or 256 pixels. At 128 pixels
    its widths are those of the XRAY-GAN paper, 1024-512-256-128-64 -> 1. No biases.

    Source: Radford, Metz and Chintala, arXiv:1511.06434; Sec. 5.4 of XRAY-GAN.

    Args:
        latent_size: length of the latent vector.
        width: channels of the finest feature map; each coarser one has twice as many, up to 1024.
    """

    def __init__(
        self,
        task: Task,
        *,
        latent_size: Annotated[int, Field(gt=0, le=65_536)] = 100,
        width: Annotated[int, Field(gt=0, le=4096)] = 64,
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        *finer, coarsest = widths_for(task.image_size, width)
        layers: list[nn.Module] = []
        before, stride, padding = latent_size, 1, 0
        for after in [coarsest, *reversed(finer)]:
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            before, stride, padding = after, 2, 1
        self.layers = nn.Sequential(
            *layers, nn.ConvTranspose2d(before, 1, 4, 2, 1, bias=False), nn.Tanh()
        )
        initialize(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(z[:, :, None, None])


class DCGANDiscriminator(Discriminator):
    """DCGAN discriminator: strided 4 x 4 convolutions, batch norm, LeakyReLU 0.2

    The mirror image of the generator, from 32, 64, 128 or 256 pixels to one logit. No norm after
    the first layer, no biases.

    With gradient penalties, use another normalization than "batch": the penalties are defined for
    each image, and with batch norm a logit depends on the other images too.

    Source: Radford, Metz and Chintala, arXiv:1511.06434; Sec. 5.4 of XRAY-GAN. Spectral
    normalization: Miyato et al., arXiv:1802.05957.

    Args:
        width: channels of the finest feature map; each coarser one has twice as many, up to 1024.
        normalization: normalization after each convolution except the first and the last, over the
            batch ("batch") or each image ("instance"); "spectral" divides the weights of every
            convolution by their largest singular value instead; "none" for no normalization.
    """

    def __init__(
        self,
        task: Task,
        *,
        width: Annotated[int, Field(gt=0, le=4096)] = 64,
        normalization: Literal["batch", "instance", "spectral", "none"] = "batch",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in widths_for(task.image_size, width):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if before > 1 and normalization == "batch":
                layers.append(nn.BatchNorm2d(after))
            if before > 1 and normalization == "instance":
                layers.append(nn.InstanceNorm2d(after, affine=True))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 0, bias=False))
        initialize(self)
        if normalization == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(images).flatten()
