"""Initial weights of published networks, from a download or a local file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xraygan.errors import UserError
from xraygan.utils.planning import Unfetched, is_planning

#: ImageNet's mean and standard deviation of a grey pixel in [0, 1]: the means over the channels
GREY_MEAN, GREY_STD = 0.449, 0.226


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights: ``.safetensors``, or a ``.pth`` as PyTorch publishes them.

    A ``.pth`` file is read with PyTorch's restricted loader, which refuses all but tensors.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds no weights.
    """
    if not path.is_file():  # the hub would try to download it, and leave a part of a file
        raise UserError(f"{path}: no such file; set weights to the path of a file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The hub only reads a file that exists, and only its tensors.
        return torch.hub.load_state_dict_from_url(
            path.name, model_dir=str(path.parent), file_name=path.name, weights_only=True,
            map_location="cpu",
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise UserError(f"{path}: not a file of weights ({error})") from None
    except Exception as error:
        # The error of the restricted loader, whose class not every version of PyTorch exports.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise UserError(f"{path}: not a file of weights (it holds more than tensors)") from None


def download_weights(published: Any) -> dict[str, Tensor]:
    """The weights that torchvision publishes, from its cache or from the network.

    Within :func:`xraygan.utils.planning.planning` it returns a placeholder without weights.

    Args:
        published: a member of a torchvision weights enumeration.

    Raises:
        UserError: they are not in the cache and cannot be downloaded; the message says where to get
            them and what to set.
    """
    if is_planning():
        return Unfetched()
    try:
        return published.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f'weights = "imagenet": the download failed ({error}). On a machine without '
            f"internet, get {published.url} elsewhere and set weights to that file's path, or set "
            'weights = "random"'
        ) from None


def load_matching(network: nn.Module, weights: dict[str, Tensor], source: str, last: str) -> None:
    """Load weights into a network, except its last layer if that has another shape.

    Does nothing with the placeholder of :func:`download_weights` within a plan.

    Args:
        source: name of the weights for a message.
        last: prefix of the last layer's parameter names, for example ``"fc."``.

    Raises:
        UserError: any other parameter is missing or has another shape.
    """
    if is_planning() and not weights:
        return
    state = network.state_dict()
    optional = {k for k in state if k.startswith(last) or k.endswith("num_batches_tracked")}
    wrong = [
        key for key in state if key not in optional
        and (key not in weights or weights[key].shape != state[key].shape)
    ]  # fmt: skip
    if wrong:
        raise UserError(
            f"weights: {source} does not fit this network: {len(wrong)} of {len(state)} tensors "
            f"are missing or have another shape, {wrong[0]!r} the first"
        )
    fitting = {k: v for k, v in weights.items() if k in state and v.shape == state[k].shape}
    network.load_state_dict(fitting, strict=False)


def weights_digest(network: nn.Module) -> str:
    """The sha256 of a network's weights, which identifies the features that it gives."""
    sha256 = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha256.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha256.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return sha256.hexdigest()


def grey_convolution(convolution: Any, *, fold: bool) -> nn.Conv2d:
    """A convolution of one grey channel that replaces a network's first one, of three channels.

    Args:
        convolution: the first convolution; its bias, if it has one, is kept.
        fold: sum its weights over the channels, which is the same function for equal channels at a
            third of the cost; otherwise draw new weights.
    """
    grey = nn.Conv2d(
        1,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
        bias=convolution.bias is not None,
    )
    if convolution.bias is not None:
        grey.bias = convolution.bias
    if fold:
        grey.weight.data = convolution.weight.data.sum(dim=1, keepdim=True)
    else:
        nn.init.kaiming_normal_(grey.weight, mode="fan_out", nonlinearity="relu")
    return grey
