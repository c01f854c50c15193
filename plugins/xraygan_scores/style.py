"""Style and content losses over the feature maps of a loss network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from xraygan import Score, Step, UserError
from xraygan.plugin_api import as_float32

from .padding import ReflectedConv2d

Formula = Literal["paper", "released"]


#: positions per block, so that a block's features in float32 fit into a CPU's cache
BLOCK = 1024


class _SquaredDistance(torch.autograd.Function):
    """|G - T|_F^2 of each image's G = F^T F / size and a symmetric T ``(N, C, C)``: ``(N,)``.

    F are features ``(N, P, C)``. The gradient is written by hand: 4 F (G - T) / size is one matrix
    product, where autograd would compute two products and make four passes over the matrices.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, target: Tensor, size: int) -> Tensor:  # type: ignore[override]
        difference = _products(flat, 1 / size).sub_(target)
        ctx.save_for_backward(flat, difference)
        ctx.size = size
        return torch.linalg.vector_norm(difference, dim=(1, 2)).square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        flat, difference = ctx.saved_tensors
        slope = gradients[0][:, None, None]
        to_features = torch.bmm(flat, (difference * (slope * (4 / ctx.size))).to(flat.dtype))
        to_target = -2 * slope * difference if ctx.needs_input_grad[1] else None
        return to_features, to_target, None


def _products(flat: Tensor, scale: float) -> Tensor:
    """scale F^T F of features F ``(N, P, C)``, float32 or better.

    Features in bfloat16 are converted to float32, block by block, and multiplied at the precision
    "medium", at which processors with bfloat16 units read float32 as bfloat16. That loses nothing,
    because the values are bfloat16 and their products are summed in float32, and takes half the
    time.
    """
    if flat.dtype != torch.bfloat16:
        flat = as_float32(flat)
        return _scaled_product(flat, scale)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        # A GPU gets a single block, because launching a product takes longer than computing it.
        first, *others = flat.split(BLOCK if flat.device.type == "cpu" else flat.shape[1], dim=1)
        total = _scaled_product(first.float(), scale)
        for block in others:
            block = block.float()
            total.baddbmm_(block.transpose(1, 2), block, alpha=scale)
        return total
    finally:
        torch.set_float32_matmul_precision(before)


def _scaled_product(flat: Tensor, scale: float) -> Tensor:
    n, _, c = flat.shape
    zeros = flat.new_zeros(()).expand(n, c, c)
    return torch.baddbmm(zeros, flat.transpose(1, 2), flat, beta=0, alpha=scale)


def _flat(maps: Tensor) -> Tensor:
    """Feature maps ``(N, C, H, W)`` as ``(N, H W, C)``; a view if they are channels-last."""
    n, c, h, w = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(n, h * w, c)


def _size(maps: Tensor, formula: Formula) -> int:
    """The divisor of Gram matrices."""
    _, c, h, w = maps.shape
    return c * h * w if formula == "paper" else h * w


def gram_matrix(maps: Tensor, formula: Formula = "paper") -> Tensor:
    """Gram matrices ``(N, C, C)`` of feature maps ``(N, C, H, W)``, float32 or better.

    G_{c,c'} = phi_c . phi_{c'} / (C H W); the released scripts divide by H W only.
    """
    with torch.autocast(maps.device.type, enabled=False):
        return _products(_flat(maps), 1 / _size(maps, formula))


def style_loss(
    maps: Mapping[str, Tensor], target: Mapping[str, Tensor], formula: Formula = "paper"
) -> Tensor:
    """Sum over layers of the batch mean of |G(maps) - G(target)|_F^2 (Eq. 9).

    The released scripts take the mean over the C^2 entries instead of their sum, and multiply each
    layer by 1000 / C^2.

    Args:
        maps: feature maps ``(N, C, H, W)`` by layer.
        target: Gram matrices ``(N, C, C)`` by layer, from :func:`gram_matrix`.
    """
    total: Tensor | float = 0.0
    for layer, grams in target.items():
        features = maps[layer]
        with torch.autocast(features.device.type, enabled=False):
            size = _size(features, formula)
            squared = _SquaredDistance.apply(_flat(features), grams, size).mean()
        if formula == "released":
            squared = 1000.0 / features.shape[1] ** 4 * squared
        total = total + squared
    return total  # type: ignore[return-value]


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of feature maps ``(N, C, H, W)``: |features - target|^2 / (C H W).

    Source: the feature reconstruction loss of Johnson et al., arXiv:1603.08155.
    """
    # Flattened, because gradients of the maps themselves would have another memory format than the
    # maps, and the loss network would convert them.
    return F.mse_loss(as_float32(_flat(features)), as_float32(_flat(target)))


class _StyleScore(Score):
    """The base of both style scores: the extractor and its layers."""

    @classmethod
    def networks_read(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        own = options["extractor"] == "classifier"
        return ("generator", "classifier") if own else ("generator",)

    def __init__(self, extractor: str, layers: Sequence[str], formula: Formula) -> None:
        super().__init__()
        self.extractor = extractor
        self.layers = tuple(layers)
        self.formula = formula

    def style_loss(self, step: Step, maps: Mapping[str, Tensor]) -> Tensor:
        """Style loss of feature maps against those of the real batch.

        Raises:
            UserError: the extractor does not return one of the layers, or not as a map.
        """
        recommended = step.extractors[self.extractor].style_layers
        layers = self.layers or recommended or tuple(k for k, x in maps.items() if x.ndim == 4)
        for layer in layers:
            self._check_map("layers", layer, maps)
        real_grams = step.cached(
            ("gram", self.extractor, layers, self.formula),
            lambda: self._grams(step.features(self.extractor, "real"), layers),
        )
        return style_loss(maps, real_grams, self.formula)

    def _check_map(self, key: str, layer: str, maps: Mapping[str, Tensor]) -> None:
        """Refuse a layer that the extractor does not return, or not for each position."""
        there = [name for name, x in maps.items() if x.ndim == 4]  # (N, C, H, W)
        if layer not in there:
            names = ", ".join(there)
            raise UserError(
                f"{key}: the extractor {self.extractor!r} has no map {layer!r}; it has {names}"
            )

    def _grams(self, maps: Mapping[str, Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
        return {layer: gram_matrix(maps[layer], self.formula) for layer in layers}


class GramStyle(_StyleScore):
    """Style distance of each generated image to a real one, by Gram matrices (Eq. 9)

    sum_j |G_j(I_g) - G_j(I_r)|_F^2 over the layers j of a loss network, with
    G_j(x)_{c,c'} = phi_c(x) . phi_{c'}(x) / (C_j H_j W_j). The i-th generated image of the batch is
    compared with the i-th real image, and the distances are averaged.

    Source: Eq. 9 of XRAY-GAN; Johnson et al., arXiv:1603.08155.

    Args:
        extractor: the loss network, a name of [extractors].
        layers: its layers j; empty for those that the extractor recommends.
        formula: "paper", or "released" for the authors' scripts: G is divided by H W, its entries
            are averaged instead of summed, and layers are weighted by 1000 / C^2.
    """

    def __init__(
        self,
        *,
        extractor: str = "vgg19",
        layers: tuple[str, ...] = (),
        formula: Formula = "paper",
    ) -> None:
        super().__init__(extractor, layers, formula)

    def forward(self, step: Step) -> Tensor:
        return self.style_loss(step, step.features(self.extractor, "fake"))


class StyleTransfer(_StyleScore):
    """Style and content losses of a transfer network that is trained with the GAN (Eq. 10)

    A network T turns a real image I_r and a generated image I_g into J = T(I_r, I_g). The score is
    sum_j |G_j(J) - G_j(I_r)|_F^2 + |phi(J) - phi(I_g)|^2 / (C H W): J should have the style of the
    real image and the content of the generated one. T has its own optimizer and is updated with the
    generator.

    Source: Eq. 10 of XRAY-GAN; Johnson et al., arXiv:1603.08155.

    Args:
        extractor: the loss network, a name of [extractors].
        layers: its layers j of the style loss; empty for those that the extractor recommends.
        content_layer: its layer of the content loss; empty for the one that the extractor
            recommends.
        width: filters of T's first layer, 32 in Johnson et al.
        channels: 1, or 3 for the released scripts' colour network on repeated grey images.
        formula: formula of the style loss, see `xraygan describe score gram`.
    """

    def __init__(
        self,
        *,
        extractor: str = "vgg19",
        layers: tuple[str, ...] = (),
        content_layer: str = "",
        width: Annotated[int, Field(gt=0, le=4096)] = 32,
        channels: Literal[1, 3] = 1,
        formula: Formula = "paper",
    ) -> None:
        super().__init__(extractor, layers, formula)
        self.content_layer = content_layer
        self.channels = channels
        self.transfer = TransferNetwork(channels, width)

    def forward(self, step: Step) -> Tensor:
        pair = torch.cat([x.expand(-1, self.channels, -1, -1) for x in (step.real, step.fake)], 1)
        stylized = step.run(self.transfer, pair)
        maps = step.features(self.extractor, stylized)
        style = self.style_loss(step, maps)
        recommended = step.extractors[self.extractor].content_layer
        last = next((name for name, x in reversed(maps.items()) if x.ndim == 4), "")
        layer = self.content_layer or recommended or last
        self._check_map("content_layer", layer, maps)
        return style + content_loss(maps[layer], step.features(self.extractor, "fake")[layer])


class TransferNetwork(nn.Module):
    """The image transformation network of Johnson et al., for pairs of real and generated images.

    At width 32: 9 x 9 convolution (32), two convolutions of stride 2 (64, 128), five residual
    blocks, two nearest-neighbour upsamplings with convolutions (64, 32), 9 x 9 convolution;
    instance norm, reflection padding, no output activation. Maps ``(N, 2 channels, S, S)`` to
    ``(N, channels, S, S)``.
    """

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(2 * channels, width, 9),
            *_convolution(width, 2 * width, 3, stride=2),
            *_convolution(2 * width, 4 * width, 3, stride=2),
            *(_Residual(4 * width) for _ in range(5)),
            nn.Upsample(scale_factor=2, mode="nearest"),
            *_convolution(4 * width, 2 * width, 3),
            nn.Upsample(scale_factor=2, mode="nearest"),
            *_convolution(2 * width, width, 3),
            ReflectedConv2d(width, channels, 9, padding=4),
        )

    def forward(self, pair: Tensor) -> Tensor:
        return self.layers(pair)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first = _convolution(width, width, 3)
        second = _convolution(width, width, 3)[:-1]
        self.layers = nn.Sequential(*first, *second)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def _convolution(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        ReflectedConv2d(before, after, kernel, stride, kernel // 2),
        nn.InstanceNorm2d(after, affine=True),
        nn.ReLU(inplace=True),
    ]
