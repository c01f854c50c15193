"""timm's networks: weights, normalization and feature maps; linear probes; the messages."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import SMALL, real_data
from resumed import digests_of_both
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from xraygan_explain.cam import grad_cam
from xraygan_export.models import Classified, Model, as_onnx, trace
from xraygan_timm import backbones
from xraygan_timm.backbones import Backbone, FeatureNetwork, Weights, packaged_weights
from xraygan_timm.networks import TimmClassifier, TimmExtractor

from xraygan import Task, UserError
from xraygan.data.datamodule import prepare
from xraygan.graph.build import assemble, dry_build
from xraygan.graph.parameters import trained_parameters
from xraygan.parts.weights import read_weights
from xraygan.recipe.loading import load
from xraygan.rundir import checkpoint
from xraygan.testing import check_classifier, check_extractor
from xraygan.utils.planning import planning

LITE = "tf_efficientnet_lite0"
DINO = "vit_small_patch14_dinov2.lvd142m"
#: timm's small networks for tests, the last a vision transformer
SMALL_NETWORKS = ("test_efficientnet", "test_resnet", "test_convnext", "test_vit")


def task(size: int = 64, *, exclusive: bool = True) -> Task:
    return Task(size, ("NORMAL", "PNEUMONIA"), exclusive)


def images(size: int = 64, n: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, size, size, generator=source) * 2 - 1


def published(folder: Path, model: str, **options: Any) -> tuple[Path, Any]:
    """timm's network of three channels, with random norms, and a file of its weights."""
    torch.manual_seed(0)
    network: Any = timm.create_model(model, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors", network


def lite0() -> Any:
    """timm's EfficientNet-Lite0 of three channels with the package's weights, which are in its
    order."""
    network: Any = timm.create_model(LITE).eval()
    file = packaged_weights(LITE)
    assert file is not None
    pairs = zip(network.state_dict(), read_weights(file).values(), strict=True)
    network.load_state_dict(dict(pairs))
    return network


def normalized(grey: Tensor, config: dict[str, Any]) -> Tensor:
    """Three equal channels of grey images in [-1, 1], in float64, by the means of the channels'
    statistics."""
    mean, std = (np.mean(config[key]) for key in ("mean", "std"))
    assert len(config["mean"]) == len(config["std"]) == 3
    return (((grey.double() + 1) / 2 - mean) / std).expand(-1, 3, -1, -1)


# -- weights and maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 97])  # its padding depends on whether the size is odd
@torch.no_grad()
def test_real_weights_on_grey_images_are_the_network_of_three_channels(size: int) -> None:
    theirs = lite0()
    assert theirs.default_cfg["mean"] == theirs.default_cfg["std"] == (0.5, 0.5, 0.5)
    grey = images(size)
    maps, features = Backbone(LITE, "imagenet", size, frozen=True)(grey)
    colour = grey.expand(-1, 3, -1, -1)
    torch.testing.assert_close(theirs.classifier(features), theirs(colour), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        features, theirs.forward_features(colour).mean(dim=(2, 3)), rtol=1e-5, atol=1e-5
    )
    assert len(maps) == 5


@torch.no_grad()
def test_real_weights_recognise_a_photograph() -> None:
    """A daisy of scikit-learn's, class 985 of ImageNet, in grey."""
    from sklearn.datasets import load_sample_image

    picture = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None]
    square = picture[..., 27:400, 133:506].float() / 127.5 - 1
    _, features = Backbone(LITE, "imagenet", 373, size=224, frozen=True)(square)
    assert lite0().classifier(features).argmax().item() == 985


@pytest.mark.parametrize("model", SMALL_NETWORKS)
@torch.no_grad()
def test_a_file_gives_the_published_network_and_its_normalization(
    model: str, tmp_path: Path
) -> None:
    size = 160
    file, theirs = published(tmp_path, model)
    grey = images(size)
    colour = normalized(grey, theirs.default_cfg)
    maps, features = Backbone(model, file, size).eval()(grey)
    expected = theirs.double().forward_head(theirs.forward_features(colour), pre_logits=True)
    torch.testing.assert_close(features, expected.float(), rtol=1e-4, atol=1e-5)
    every = theirs.forward_intermediates(colour, intermediates_only=True, output_fmt="NCHW")
    for found, one in zip(maps, every, strict=True):
        torch.testing.assert_close(found, one.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [LITE, "test_resnet", "test_convnext"])
@torch.no_grad()
def test_maps_of_four_scales(model: str, tmp_path: Path) -> None:
    file, theirs = published(tmp_path, model)
    places = (0, 1, 2, 3) if model == "test_convnext" else (1, 2, 3, 4)
    reference: Any = timm.create_model(model, features_only=True, out_indices=places).eval()
    reference.load_state_dict(theirs.state_dict() | _flattened(reference, theirs), strict=False)
    network = FeatureNetwork(model, file, 96)
    found = network(images(96))
    assert network.reductions == [4, 8, 16, 32]
    assert [x.shape[1] for x in found] == network.channels == reference.feature_info.channels()
    assert [x.shape[-1] for x in found] == [24, 12, 6, 3]
    expected = reference(normalized(images(96), theirs.default_cfg).float())
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)
    (one,) = FeatureNetwork(model, file, 96, reductions=(16,))(images(96))
    assert torch.equal(one, found[2])
    (half,) = FeatureNetwork(model, file, 96, reductions=(32,), size=64)(images(96))
    assert half.shape[-1] == 2


def _flattened(reference: nn.Module, network: nn.Module) -> dict[str, Tensor]:
    """The weights by the names of a network that returns features: stages_0 for stages.0."""
    state = network.state_dict()
    own = {key.replace(".", "_"): key for key in state}
    return {key: state[own[key.replace(".", "_")]] for key in reference.state_dict()}


def test_the_other_implementations_order_has_to_fit(tmp_path: Path) -> None:
    file = packaged_weights(LITE)
    assert file is not None
    tensors = read_weights(file)
    torch.save(tensors, tmp_path / "copy.pth")
    by_path = Backbone(LITE, tmp_path / "copy.pth", 64).state_dict()
    for name, value in Backbone(LITE, "imagenet", 64).state_dict().items():
        assert torch.equal(by_path[name], value), name

    swapped = dict(tensors)  # a mean is no weight, although it has the same shape
    first = {k: k.replace("_bn0.weight", "_bn0.running_mean") for k in list(swapped)[:4]}
    back = {"_bn0.running_mean": "_bn0.weight"}
    wrong = {back.get(k, first.get(k, k)): v for k, v in swapped.items()}
    assert len(wrong) == len(tensors)
    torch.save(wrong, tmp_path / "swapped.pth")
    del tensors["_fc.bias"]
    torch.save(tensors, tmp_path / "short.pth")
    for name in ("swapped.pth", "short.pth"):
        with pytest.raises(UserError, match=rf"{name} does not fit .*'conv_stem\.weight'"):
            Backbone(LITE, tmp_path / name, 64)


@torch.no_grad()
def test_a_runs_classifier_is_a_file_of_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = TimmClassifier(task(), model="test_resnet", frozen=True, weights="random").eval()
    save_file(own.state_dict(), tmp_path / "classifier.safetensors")
    other = TimmExtractor(
        model="test_resnet", weights=tmp_path / "classifier.safetensors", size=64
    ).eval()
    found, expected = other(images()), own(images())
    assert torch.equal(found["stage5"], expected["stage5"])


@torch.no_grad()
def test_positions_are_resampled_to_another_size(tmp_path: Path) -> None:
    file, theirs = published(tmp_path, "test_vit")
    expected: Any = timm.create_model("test_vit", img_size=64).eval()
    state = theirs.state_dict()
    grid = state["pos_embed"][:, 1:].unflatten(1, (10, 10)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], grid.flatten(2).mT], dim=1)
    expected.load_state_dict(state)
    found = TimmExtractor(model="test_vit", weights=file, size=64).eval()(images(96))
    seen = Backbone("test_vit", "random", 96, size=64).prepared(images(96)).expand(-1, 3, -1, -1)
    tokens = expected.forward_features(seen)
    torch.testing.assert_close(found["features"], tokens[:, 0], rtol=1e-4, atol=1e-5)


# -- the extractor ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "size", "grid", "width"),
    [(DINO, 70, 5, 384), ("vit_base_patch16_clip_224.openai", 64, 4, 768)],
)
@torch.no_grad()
def test_vision_transformers(model: str, size: int, grid: int, width: int) -> None:
    extractor = TimmExtractor(model=model, weights="random", size=size).eval()
    found = extractor(images(48).expand(-1, 3, -1, -1))
    assert list(found) == ["stage1", "stage2", "stage3", "stage4", "features"]
    assert [s.place for s in extractor.backbone.scales] == [2, 5, 8, 11]
    assert found["stage4"].shape == (2, width, grid, grid)
    network = extractor.backbone.network
    tokens = network.forward_features(extractor.backbone.prepared(images(48)))
    torch.testing.assert_close(found["features"], tokens[:, 0])  # the class token


@pytest.mark.parametrize("options", [{}, {"model": "test_vit", "size": 64}])
def test_the_extractor_passes_the_checks(options: dict[str, Any]) -> None:
    check_extractor(TimmExtractor, weights="random", **({"size": 64} | options))


# -- the classifier --------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("model", SMALL_NETWORKS)
def test_the_classifier_passes_the_checks(model: str, frozen: bool) -> None:
    check_classifier(TimmClassifier, model=model, frozen=frozen, weights="random", dropout=0.1)


def test_a_frozen_network_never_changes() -> None:
    network = TimmClassifier(task(), weights="imagenet", frozen=True)
    assert sum(p.numel() for p in trained_parameters(network)) == 1280 * 2 + 2
    before = copy.deepcopy(network.backbone.state_dict())
    optimizer = torch.optim.Adam(trained_parameters(network), lr=0.1)
    for _ in range(3):
        network.train()
        given = images(n=4).requires_grad_()
        loss = network.losses(network(given)["logits"], torch.tensor([0, 1, 1, 0])).mean()
        loss.backward()
        optimizer.step()
    assert given.grad is not None and bool(given.grad.any())
    assert network.training and not any(m.training for m in network.backbone.modules())
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert bool(network.last.weight.any())
    network.eval()
    torch.manual_seed(1)
    whole = TimmClassifier(task(), weights="imagenet")
    assert len(trained_parameters(whole)) > 100 and whole.train().backbone.network.training


def test_features_are_standardised_by_the_mean_of_all_batches() -> None:
    network = TimmClassifier(task(), model="test_resnet", frozen=True).train()
    standardised: list[Tensor] = []
    network.norm.register_forward_hook(lambda module, given, out: standardised.append(out))
    batches = [images(n=4), images(n=8)[4:].flip(2)]
    pooled = []
    with torch.no_grad():
        for batch in batches:
            raw = network(batch)["features"]
            features = standardised[-1]
            own = network.backbone(batch)[1].double()
            torch.testing.assert_close(raw.double(), own, rtol=1e-3, atol=1e-4)
            pooled.append(own)
            expected = (own - own.mean(0)) / (own.var(0, correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(features.double(), expected, rtol=1e-3, atol=1e-4)
        mean = torch.stack([x.mean(0) for x in pooled]).mean(0)
        variance = torch.stack([x.var(0) for x in pooled]).mean(0)
        network.eval()(images(n=1))
        found = standardised[-1].double()
        one = network.backbone(images(n=1))[1].double()
    expected = (one - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


RUN = (
    *SMALL,
    'data.classes=["Cardiomegaly", "Effusion"]',
    "classifier.plugin=timm",
    "classifier.model=test_resnet",
    "classifier.frozen=true",
    "classifier.size=48",
    "classifier.average=0.9",
    "run.steps=3",
    "run.save_every=2",
)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_resumes_to_the_same_bits(
    accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole graph: scores and pseudo-labels read the frozen network's maps and logits."""
    sets = [*RUN, f"run.accumulate={accumulate}", "classifier.weights=random"]
    recipe = load("ucgan_full", sets)
    start = assemble(recipe, prepare(recipe).task).networks["classifier"].state_dict()
    whole, resumed = digests_of_both(recipe, tmp_path, monkeypatch)
    assert whole == resumed
    last = checkpoint.latest(tmp_path / "whole" / "checkpoints")
    assert last is not None
    for name in ("classifier", "classifier.average"):
        state = last.tensors(name)
        frozen = {k: v for k, v in state.items() if k.startswith("backbone.")}
        assert frozen and all(torch.equal(v, start[k]) for k, v in frozen.items())
        assert not torch.equal(state["last.weight"], start["last.weight"])
        assert state["norm.num_batches_tracked"] > 0


@pytest.mark.slow
@torch.no_grad()
def test_it_is_exported(tmp_path: Path) -> None:
    import onnxruntime

    network = TimmClassifier(task(), weights="imagenet", frozen=True, size=80).eval()
    nn.init.normal_(network.last.weight)
    network.requires_grad_(False)
    shown = {"images": torch.zeros(2, 1, 64, 64)}
    model = Model("classifier", network, Classified(network), shown, ("logits", "probabilities"))
    program = trace(model)
    expected = network(images(n=3))["logits"]
    torch.testing.assert_close(program.module()(images(n=3))[0], expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(as_onnx(program, model))
    found = session.run(None, {"images": images(n=3).numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_heat_maps_of_a_linear_probe() -> None:
    torch.manual_seed(0)
    network = TimmClassifier(task(128), weights="imagenet", frozen=True)
    nn.init.normal_(network.last.weight)
    heat = torch.stack([grad_cam(network, images(128), column) for column in (0, 1)])
    assert heat.shape == (2, 2, 128, 128) and bool(heat.isfinite().all()) and bool(heat.any())


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "weights", "side", "message"),
    [
        ("tf_efficientnet_lit0", "random", 64, r"did you mean 'tf_efficientnet_lite0'"),
        ("zzqqzz", "random", 64, r"no network 'zzqqzz' .*timm\.list_models\(\)"),
        ("hf-hub:someone/network", "imagenet", 64, "timm has no network 'hf-hub:"),
        ("resnet18.a1_in2k", "imagenet", 64, r"no weights 'a1_in2k' of 'resnet18'; .*'a1_in1k'"),
        ("test_vit", "random", 72, r"multiple of 16 pixels, not 72; set size, .* 64"),
        (
            "inception_v3",
            "random",
            64,
            r"'inception_v3' cannot be used with images of 64 x 64 .*size",
        ),
        ("tf_efficientnet_lite0", Path("absent.pth"), 64, "absent.pth: no such file"),
    ],
)
def test_what_does_not_fit_is_said(model: str, weights: Weights, side: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(model, weights, side)


def test_a_network_without_the_asked_scales_is_refused() -> None:
    with pytest.raises(UserError, match="maps of strides 16, none of 4"):
        FeatureNetwork("test_vit", "random", 64)


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    file, _ = published(tmp_path, "test_resnet")
    with pytest.raises(UserError, match="does not fit this network"):
        Backbone("test_convnext", file, 64)
    torch.save({"whole": published(tmp_path, "test_resnet")[1]}, tmp_path / "network.pth")
    with pytest.raises(UserError, match="it holds more than tensors"):
        Backbone("test_resnet", tmp_path / "network.pth", 64)


def test_without_internet_the_message_says_what_to_fetch_and_a_plan_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refused(*of: Any, **how: Any) -> None:
        asked.append(of)
        raise OSError("no route to host")

    for name in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{name}", refused)
    sets = ["classifier.model=resnet18.a1_in1k", "data.plugin=phantom", "data.classes=all"]
    recipe = load("linear_probe", sets)
    with planning():
        dry_build(recipe, task())
    assert not asked
    with pytest.raises(UserError) as raised:
        dry_build(recipe, task())
    assert asked
    said = str(raised.value)
    for part in (
        "[classifier]",
        "no route to host",
        "https://huggingface.co/timm/resnet18.a1_in1k",
    ):
        assert part in said
    assert "set weights to that file's path" in said and 'weights = "random"' in said


@torch.no_grad()
def test_downloaded_weights_are_loaded_as_timm_loads_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, theirs = published(tmp_path, "test_resnet")
    fetched = lambda *of, **how: copy.deepcopy(theirs.state_dict())  # noqa: E731
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetched)
    maps, _ = Backbone("test_resnet.r160_in1k", "imagenet", 64).eval()(images())
    colour = normalized(images(), theirs.default_cfg).float()
    expected = theirs.forward_intermediates(colour, intermediates_only=True)
    torch.testing.assert_close(maps[-1], expected[-1], rtol=1e-4, atol=1e-4)


def test_weights_that_timm_does_not_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "packaged_weights", lambda model: None)
    with pytest.raises(UserError, match="publishes no weights of 'resnet26t_"):
        backbones._download("resnet26t_", 64, timm.create_model("efficientnet_b0_g16_evos"))


# -- real images -----------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_features_of_imagenet_tell_pneumonia_better_than_random_ones() -> None:
    sets = [f"data.root={real_data('zhang')}", "data.image_size=64", "data.limit=60"]
    data = prepare(load("linear_probe", sets))
    areas = {}
    for weights in ("imagenet", "random"):
        torch.manual_seed(0)
        network = Backbone(LITE, weights, 64, size=96, frozen=True)  # type: ignore[arg-type]
        features, labels = {}, {}
        for name in ("train", "test"):
            split = data.splits[name]
            pixels = split.images[torch.arange(0, len(split), 1 if name == "train" else 4)]
            labels[name] = split.label_matrix[:: 1 if name == "train" else 4, 1]
            shown = pixels[:, None].float() / 127.5 - 1
            features[name] = torch.cat([network(x)[1] for x in shown.split(64)]).numpy()
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
        probe.fit(features["train"], labels["train"])
        said = probe.decision_function(features["test"])
        areas[weights] = roc_auc_score(labels["test"], said)
    assert areas["imagenet"] > 0.85
    assert areas["imagenet"] > areas["random"] + 0.03
