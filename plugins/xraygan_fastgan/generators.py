"""FastGAN's generator, unconditional or conditional."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from xraygan import Generator, Task, UserError

from .blocks import SkipExcitation, Stem, Up, convolution

SIZES = (32, 64, 128, 256, 512)
COARSEST = 4  # side of the coarsest map, in pixels
#: channels of a map in multiples of the width, by its side
FACTORS = {4: 16.0, 8: 8.0, 16: 4.0, 32: 2.0, 64: 2.0, 128: 1.0, 256: 0.5, 512: 0.25}
#: from this side on, a map is gated by the map of a sixteenth of its side
FIRST_GATED, SKIP = 64, 16
FEWEST = 8  # channels of any map


def channels_for(side: int, width: int) -> int:
    """Channels of the map of a side: the published multiple of the width, but at least 8."""
    return max(int(FACTORS[side] * width), FEWEST)


class _FastGAN(Generator):
    """The stem, blocks that double the size, gates, the image."""

    def __init__(
        self,
        task: Task,
        *,
        latent_size: Annotated[int, Field(gt=0, le=65_536)] = 256,
        width: Annotated[int, Field(gt=0, le=1024)] = 64,
    ) -> None:
        super().__init__()
        size = task.image_size
        if size not in SIZES:
            sizes = ", ".join(map(str, SIZES))
            raise UserError(f"fastgan makes images of {sizes} pixels; data.image_size is {size}")
        self.latent_size = latent_size
        conditions = task.condition_size if self.conditional else 0
        self.stem = Stem(latent_size, channels_for(COARSEST, width))
        self.blocks, self.gates = nn.ModuleList(), nn.ModuleDict()
        side = COARSEST
        while side < size:
            before, side = channels_for(side, width), 2 * side
            after = channels_for(side, width)
            deep = len(self.blocks) % 2 == 0
            self.blocks.append(Up(before, after, side, conditions, deep=deep))
            if side >= FIRST_GATED:
                coarse = channels_for(side // SKIP, width)
                self.gates[str(side)] = SkipExcitation(coarse, after)
        self.last = convolution(after, 1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = None
        if self.conditional:
            if labels is None:
                raise ValueError("a conditional generator needs labels")
            condition = labels.to(z.dtype)
        x = self.stem(z)
        maps = {COARSEST: x}
        for block in self.blocks:
            x = block(x, condition)
            side = x.shape[-1]
            if str(side) in self.gates:
                x = self.gates[str(side)](maps[side // SKIP], x)
            maps[side] = x
        return self.last(x).tanh()


class FastGANGenerator(_FastGAN):
    """FastGAN generator: upsampling blocks with gated linear units, noise and skip-layer excitation

    A transposed convolution maps the latent vector, scaled to the same length for all, to 4 x 4.
    Blocks of one 3 x 3 convolution, or two with noise injection, double the size to 32, 64, 128,
    256 or 512 pixels; maps of 64 pixels and more are gated by the map of a sixteenth of their side.
    Batch norm, gated linear units, spectral normalization, no biases. Noise is drawn in training;
    in evaluation mode it is fixed, so that an image is a function of its latent vector.

    It is made to be trained against `projected`, with few images or little time.

    Source: Liu et al., arXiv:2101.04775 (FastGAN); with the latent scale and without the second,
    coarse image, as in Sauer et al., arXiv:2111.01007 (Projected GAN).

    Args:
        latent_size: length of the latent vector.
        width: channels of the map of 128 pixels; coarser maps have 2, 2, 4, 8 and 16 times as many,
            finer maps a half and a quarter.
    """


class ConditionalFastGANGenerator(_FastGAN):
    """Conditional FastGAN generator: the labels set the gains and biases of its batch norms

    The network of `fastgan`. The gains and biases of each batch norm but the first are g + G y and
    b + B y, linear in the label vector y, so that each class has its own, and an image with several
    findings has their sums. The metadata of [data] metadata is appended to y. The first layer takes
    the latent vector alone: with an embedding of the label beside it, its batch norm lets the
    differences between classes replace those within a class, and each class becomes one image.

    Source: Liu et al., arXiv:2101.04775 (FastGAN); Sauer et al., arXiv:2111.01007 (Projected GAN);
    Dumoulin et al., arXiv:1610.07629 (conditional normalization).

    Args:
        latent_size: length of the latent vector.
        width: channels of the map of 128 pixels; coarser maps have 2, 2, 4, 8 and 16 times as many,
            finer maps a half and a quarter.
    """

    conditional = True
