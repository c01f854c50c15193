"""The style scores: which maps they compare, and the network that transfers a style."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_equations import normal, style_of
from torch import Tensor, nn
from xraygan_scores.style import (
    BLOCK,
    GramStyle,
    StyleTransfer,
    TransferNetwork,
    _convolution,
    _products,
    _Residual,
    _SquaredDistance,
    content_loss,
    gram_matrix,
    style_loss,
)

from xraygan import UserError


class Maps:
    """A step whose extractor answers with maps that depend on the images alone."""

    def __init__(self, style: tuple[str, ...] = (), content: str = "") -> None:
        self.real, self.fake = normal(0, 2, 1, 16, 16).float(), normal(1, 2, 1, 16, 16).float()
        self.extractors = {"net": SimpleNamespace(style_layers=style, content_layer=content)}
        self.asked: list[Any] = []
        self.ran: list[tuple[nn.Module, Tensor]] = []
        self.kept: dict[Any, Any] = {}

    def features(self, extractor: str, images: Any) -> dict[str, Tensor]:
        assert extractor == "net"
        self.asked.append(images)
        of = getattr(self, images) if isinstance(images, str) else images
        grey = of.mean(dim=1, keepdim=True)
        pooled = F.avg_pool2d(grey, 2)
        return {"a": torch.cat([grey, grey.square()], 1), "b": torch.cat([pooled, pooled.cos()], 1),
                "c": torch.cat([pooled.sin()] * 3, 1), "vector": grey.mean(dim=(2, 3))}  # fmt: skip

    def cached(self, key: Any, make: Any) -> Any:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def run(self, network: nn.Module, pair: Tensor) -> Tensor:
        self.ran.append((network, pair))
        return network(pair)


def style(step: Maps, of: dict[str, Tensor], layers: str, formula: Any = "paper") -> Tensor:
    real = step.features("net", "real")
    return style_of({k: of[k] for k in layers}, {k: real[k] for k in layers}, formula)


@pytest.mark.parametrize("formula", ["paper", "released"])
@pytest.mark.parametrize(
    ("layers", "own", "compared"),
    [((), (), "abc"), ((), ("b",), "b"), (("a", "c"), ("b",), "ac"), (("c",), (), "c")],
)
def test_generated_images_are_compared_with_real_ones_in_the_layers_of_style(
    layers: tuple[str, ...], own: tuple[str, ...], compared: str, formula: Any
) -> None:
    step: Any = Maps(own)
    score = GramStyle(extractor="net", layers=layers, formula=formula)
    found = score(step)
    torch.testing.assert_close(found, style(step, step.features("net", "fake"), compared, formula))
    assert [*step.kept] == [("gram", "net", tuple(compared), formula)]
    assert step.asked[:2] == ["fake", "real"]
    before = len(step.asked)
    score(step)
    assert step.asked[before:] == ["fake"]  # the real ones' matrices are kept


def test_scores_say_which_layers_there_are() -> None:
    step: Any = Maps()
    with pytest.raises(UserError) as caught:
        GramStyle(extractor="net", layers=("a", "d", "e"))(step)
    assert str(caught.value) == "layers: the extractor 'net' has no map 'd'; it has a, b, c"
    with pytest.raises(UserError) as caught:
        StyleTransfer(extractor="net", content_layer="d", width=1)(step)
    said = "content_layer: the extractor 'net' has no map 'd'; it has a, b, c"
    assert str(caught.value) == said
    for key, score in (
        ("layers", GramStyle(extractor="net", layers=("vector",))),
        ("content_layer", StyleTransfer(extractor="net", content_layer="vector", width=1)),
    ):
        with pytest.raises(UserError, match=rf"^{key}: .* has no map 'vector'; it has a, b, c$"):
            score(step)  # it has no positions


def test_the_scores_own_choices() -> None:
    gram, transfer = GramStyle(), StyleTransfer()
    for score in (gram, transfer):
        assert (score.extractor, score.layers, score.formula) == ("vgg19", (), "paper")
    assert (transfer.content_layer, transfer.channels) == ("", 1)
    first = transfer.transfer.layers[0]
    assert (first.in_channels, first.out_channels) == (2, 32)
    other = StyleTransfer(extractor="net", layers=("a",), formula="released", channels=3, width=4)
    assert (other.extractor, other.layers, other.formula) == ("net", ("a",), "released")
    first = other.transfer.layers[0]
    assert (first.in_channels, first.out_channels) == (6, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("content", "own", "layer"), [("", "", "c"), ("", "b", "b"), ("a", "b", "a")]
)
def test_a_transferred_image_has_the_style_of_the_real_and_the_content_of_the_generated(
    content: str, own: str, layer: str, channels: Any
) -> None:
    step: Any = Maps(content=own)
    torch.manual_seed(0)
    score = StyleTransfer(
        extractor="net", layers=("a", "b"), content_layer=content, width=2, channels=channels
    )
    found = score(step)
    ((network, pair),) = step.ran
    assert network is score.transfer
    assert torch.equal(pair[:, :channels], step.real.expand(-1, channels, -1, -1))
    assert torch.equal(pair[:, channels:], step.fake.expand(-1, channels, -1, -1))
    made = network(pair)
    assert made.shape == (2, channels, 16, 16)
    ours = step.features("net", made)
    expected = style(step, ours, "ab") + content_loss(
        ours[layer], step.features("net", "fake")[layer]
    )
    torch.testing.assert_close(found, expected)


def test_the_transfer_network_is_johnsons() -> None:
    """Its layers, as the supplement of arXiv:1603.08155 lists them."""
    network = TransferNetwork(1, 4)
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["ReflectedConv2d", "InstanceNorm2d", "ReLU"]
    assert kinds == [
        *block * 3, *["_Residual"] * 5, "Upsample", *block, "Upsample", *block, "ReflectedConv2d",
    ]  # fmt: skip
    about = [
        (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0])
        for c in network.layers
        if isinstance(c, nn.Conv2d)
    ]
    assert about == [
        (2, 4, 9, 1, 4), (4, 8, 3, 2, 1), (8, 16, 3, 2, 1),
        (16, 8, 3, 1, 1), (8, 4, 3, 1, 1), (4, 1, 9, 1, 4),
    ]  # fmt: skip
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.padding_mode == "reflect"
        if isinstance(layer, nn.InstanceNorm2d):
            assert layer.affine and layer.weight is not None
        if isinstance(layer, nn.Upsample):
            assert (layer.scale_factor, layer.mode) == (2.0, "nearest")
        if isinstance(layer, nn.ReLU):
            assert layer.inplace
    residual = network.layers[9]
    assert isinstance(residual, _Residual)
    inner = [layer for layer in residual.layers if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in inner] == [(16, 16, (3, 3))] * 2
    names = [type(layer).__name__ for layer in residual.layers]
    assert names == [*block, "ReflectedConv2d", "InstanceNorm2d"]
    x = normal(0, 1, 16, 4, 4).float()
    torch.testing.assert_close(residual(x), F.relu(x + residual.layers(x)))
    pair = normal(0, 1, 2, 16, 16).float()
    assert network(pair).shape == (1, 1, 16, 16)
    assert torch.equal(network(pair), network.layers(pair))
    plain = TransferNetwork()
    assert (plain.layers[0].in_channels, plain.layers[0].out_channels) == (2, 32)
    assert _convolution(1, 1, 3)[0].stride == (1, 1)


def test_bfloat16_features_are_multiplied_in_blocks() -> None:
    flat = normal(0, 2, BLOCK * 2 + 5, 3).bfloat16()
    for features in (flat, flat[:, :BLOCK], flat[:, : BLOCK + 1]):
        found = _products(features, 0.25)
        exact = features.double().transpose(1, 2) @ features.double() * 0.25
        assert found.dtype == torch.float32
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_blocks_are_of_positions_not_of_images_or_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[torch.Size] = []

    def noted(block: Tensor, scale: float) -> Tensor:
        first.append(block.shape)
        return scale * block.transpose(1, 2) @ block

    monkeypatch.setattr("xraygan_scores.style.BLOCK", 2)
    monkeypatch.setattr("xraygan_scores.style._scaled_product", noted)
    flat = normal(0, 3, 5, 4).bfloat16()  # more images, positions and channels than a block has
    exact = flat.double().transpose(1, 2) @ flat.double() * 0.25
    assert (_products(flat, 0.25) - exact).abs().max() < 1e-5 * exact.abs().max()
    assert first == [(3, 2, 4)]


def test_the_precision_of_products_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, told = torch.get_float32_matmul_precision(), []
    tell = torch.set_float32_matmul_precision
    monkeypatch.setattr(
        torch, "set_float32_matmul_precision", lambda word: (told.append(word), tell(word))
    )
    _products(torch.ones(1, 2, 2).bfloat16(), 1.0)
    assert told == ["medium", before]
    _products(torch.ones(1, 2, 2), 1.0)
    assert len(told) == 2


def test_the_gradient_of_a_squared_distance_goes_to_its_target_where_that_asks() -> None:
    flat = normal(0, 2, 5, 3).requires_grad_()
    target = normal(1, 2, 3, 3)
    target = (target + target.transpose(1, 2)).requires_grad_()
    found = _SquaredDistance.apply(flat, target, 7)
    plain = (flat.transpose(1, 2) @ flat / 7 - target).square().sum(dim=(1, 2))
    torch.testing.assert_close(found, plain)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    ours = torch.autograd.grad((found * weights).sum(), (flat, target))
    theirs = torch.autograd.grad((plain * weights).sum(), (flat, target))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    (alone,) = torch.autograd.grad(_SquaredDistance.apply(flat, target.detach(), 7).sum(), flat)
    assert alone.shape == flat.shape


def test_style_is_not_computed_in_reduced_precision() -> None:
    maps = {"a": normal(0, 2, 3, 4, 4).float()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grams = {"a": gram_matrix(maps["a"].flip(0))}
        found = style_loss(maps, grams)
    assert grams["a"].dtype == torch.float32
    torch.testing.assert_close(found, style_of(maps, {"a": maps["a"].flip(0)}, "paper"))
