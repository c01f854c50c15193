"""Classifiers and extractors of torchvision and TorchXRayVision, and their weights from files."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor
from xraygan_torchvision.networks import ConvNeXtTiny, EfficientNetB0
from xraygan_xrv.networks import XRVClassifier, XRVExtractor, adapted, library

from xraygan import Classifier, Task, UserError
from xraygan.graph.build import dry_build
from xraygan.parts.registry import installed
from xraygan.parts.weights import GREY_MEAN, GREY_STD, read_weights
from xraygan.recipe.loading import load

FINDINGS = ("No Finding", "Effusion", "Hernia")
NETWORKS = {"convnext_tiny": ConvNeXtTiny, "efficientnet_b0": EfficientNetB0}


def task(size: int = 32) -> Task:
    return Task(size, FINDINGS, exclusive=False)


def images(size: int = 32, channels: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.rand(2, channels, size, size, generator=source) * 2 - 1


# -- torchvision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_grey_network_is_torchvisions_of_three_equal_channels(name: str, tmp_path: Path) -> None:
    theirs = torchvision.models.get_model(name, num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = NETWORKS[name](task(), weights=tmp_path / "weights.pth").eval()
    grey = images()
    found = ours(grey)
    colour = (((grey + 1) / 2 - GREY_MEAN) / GREY_STD).expand(-1, 3, -1, -1)
    torch.testing.assert_close(found["logits"], theirs(colour), rtol=1e-4, atol=1e-5)
    features = theirs.classifier[:-1](theirs.avgpool(theirs.features(colour))).flatten(1)
    torch.testing.assert_close(found["features"], features, rtol=1e-4, atol=1e-5)

    stages = 4 if name == "convnext_tiny" else 7
    last = [] if name == "convnext_tiny" else ["last"]
    every = ["stem", *(f"stage{i + 1}" for i in range(stages)), *last, "features", "logits"]
    assert list(found) == every
    sides = [value.shape[-1] for value in found.values() if value.ndim == 4]
    assert sides == sorted(sides, reverse=True) and sides[-1] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_another_last_layer_is_drawn_anew_and_another_network_refused(
    name: str, tmp_path: Path
) -> None:
    theirs = torchvision.models.get_model(name, num_classes=7).state_dict()
    torch.save(theirs, tmp_path / "weights.pth")
    network = NETWORKS[name](task(), weights=tmp_path / "weights.pth").network
    assert network.classifier[-1].weight.shape[0] == 3
    kept = next(key for key in theirs if key.startswith("features.2."))
    torch.testing.assert_close(network.state_dict()[kept], theirs[kept])
    (other,) = (cls for key, cls in NETWORKS.items() if key != name)
    with pytest.raises(UserError, match="does not fit this network"):
        other(task(), weights=tmp_path / "weights.pth")
    with pytest.raises(UserError, match=f"{name} takes images of 32 pixels or more"):
        NETWORKS[name](task(16))


def test_blocks_are_left_out_by_the_steps_random_numbers() -> None:
    def train(network: Classifier, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return network(images())["logits"]

    network = ConvNeXtTiny(task(), stochastic_depth=0.9).train()
    network.requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "layer_scale"):  # which begin at a millionth
            module.layer_scale.fill_(1.0)
    assert torch.equal(train(network, 1), train(network, 1))
    assert not torch.allclose(train(network, 1), train(network, 2))
    whole = ConvNeXtTiny(task(), stochastic_depth=0.0).train().requires_grad_(False)
    assert torch.equal(train(whole, 1), train(whole, 2))


# -- TorchXRayVision -------------------------------------------------------------------------------


def test_without_the_package_its_parts_are_listed_and_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    for kind in ("classifier", "extractor"):
        part = installed().get(kind, "xrv_densenet121")
        assert part.status == "ok" and part.summary
    chosen = load("quickstart", ["classifier.plugin=xrv_densenet121"])
    with pytest.raises(UserError, match=r"\[classifier\]: .* pip install 'xraygan\[xrv\]'"):
        dry_build(chosen, task(64))


@pytest.fixture(scope="module")
def xrv() -> Any:
    """The library, or a skip; importing it leaves warnings as they were."""
    if find_spec("torchxrayvision") is None:
        pytest.skip("torchxrayvision is not installed: pip install 'xraygan[xrv]'")
    before = list(warnings.filters)
    found = library()
    assert warnings.filters == before
    return found


@pytest.fixture
def theirs(xrv: Any) -> Any:
    """The library's network, whose running statistics are none that a new one has."""
    torch.manual_seed(0)
    network = xrv.models.DenseNet()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@torch.no_grad()
def test_its_networks_say_what_the_library_says(
    xrv: Any, theirs: Any, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights.{suffix}"
    save: Callable[..., None] = torch.save if suffix == "pth" else save_file
    save(theirs.state_dict(), path)
    grey = images(48).double()  # in float32, 121 layers differ by more than the last digits
    seen = xrv.utils.fix_resolution(grey * 1024, 32, None)
    theirs.double()
    features, logits = theirs.features2(seen), theirs(seen)

    extractor = XRVExtractor(weights=path, size=32).double().eval()
    maps = extractor(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(maps["features"], features)
    assert [*extractor.style_layers, "relu5", "features"] == list(maps)

    found = XRVClassifier(task(48), weights=path, size=32).double().eval()(grey)
    torch.testing.assert_close(found["features"], features)
    for column in (1, 2):  # it knows these by name
        expected = logits[:, xrv.models.DenseNet.targets.index(FINDINGS[column])]
        torch.testing.assert_close(found["logits"][:, column], expected)


@pytest.mark.parametrize("side", [20, 32, 75])
def test_images_are_resized_as_the_library_resizes_them(xrv: Any, side: int) -> None:
    grey = images(side).double().requires_grad_()
    found, expected = adapted(grey, 32), xrv.utils.fix_resolution(grey * 1024, 32, None)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, dtype=torch.float64)
    ours, its = (torch.autograd.grad((x * weights).sum(), grey)[0] for x in (found, expected))
    torch.testing.assert_close(ours, its)


def test_a_name_is_that_of_a_converted_file_and_no_pickle_is_read(
    xrv: Any, theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xrv.utils, "get_cache_dir", lambda: f"{tmp_path}/")
    monkeypatch.setattr(xrv.utils, "download", lambda *of: pytest.fail("it was downloaded"))
    name = "densenet121-res224-nih"
    with pytest.raises(UserError, match=f"there is no {tmp_path}/{name}.safetensors"):
        XRVExtractor(weights=name)
    save_file(theirs.state_dict(), tmp_path / f"{name}.safetensors")
    found = XRVExtractor(weights=name).features.state_dict()
    for key, value in theirs.features.state_dict().items():
        assert torch.equal(found[key], value)
    torch.save(theirs, tmp_path / "published.pt")  # as the library publishes it
    with pytest.raises(UserError, match=r"published\.pt: not a file of weights"):
        XRVExtractor(weights=tmp_path / "published.pt")


def test_a_missing_file_is_not_downloaded_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(UserError, match=rf"{name}: no such file; set weights to the path"):
            read_weights(Path(name))
    assert not list(tmp_path.iterdir())
