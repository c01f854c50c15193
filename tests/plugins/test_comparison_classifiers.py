"""The classifiers that Tab. 9 compares with: CheXNet, CRAL, and Li et al.'s grid of patches."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from xraygan_chestxray14.dataset import ChestXray14
from xraygan_densenet.networks import DenseNet121
from xraygan_resnet.cral import CRAL, attended_logits
from xraygan_resnet.patch_grid import PatchGrid, image_logits, to_grid

from xraygan import Classifier, Task, UserError
from xraygan.data.datamodule import prepare
from xraygan.graph.build import assemble
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.weights import read_weights
from xraygan.recipe.loading import load
from xraygan.utils.seeding import rng

FINDINGS = ("Pneumonia", "Edema", "Hernia")
RECIPES = ("chexnet", "cral", "li_patch_grid")
#: a recipe of Tab. 9 at a size that a test can afford
SMALL = (
    "data.plugin=phantom",
    "data.images=120",
    'data.classes=["Pneumonia", "Edema", "Hernia"]',
    "data.image_size=32",
    "classifier.weights=random",
    "run.batch_size=6",
    "evaluation.protocol=official",
)
HEADS = ("classifier.backbone=resnet18", "classifier.width=8")


def task(size: int = 32, *, exclusive: bool = False, **known: Any) -> Task:
    return Task(size, FINDINGS, exclusive, **known)


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64) * scale


def images(size: int = 32, n: int = 3) -> Tensor:
    return normal(0, n, 1, size, size).float().clamp(-1, 1)


def overrides(recipe: str, policy: str) -> list[str]:
    heads = () if recipe == "chexnet" else HEADS
    return [*SMALL, *heads, f"data.label_policy={policy}"]


# -- all three -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (DenseNet121, {}),
        (CRAL, {"backbone": "resnet18", "width": 8}),
        (PatchGrid, {"backbone": "resnet18", "width": 8}),
    ],
)
def test_activations(cls: type[Classifier], options: dict[str, Any], size: int) -> None:
    network = cls(task(size), **options).eval()  # type: ignore[call-arg]
    with torch.no_grad():
        found = network(images(size))
    assert found["logits"].shape == (3, 3) and found["logits"].dtype == torch.float32
    assert found["features"].shape[0] == 3 and found["features"].ndim == 2
    maps = [x.shape[-1] for x in found.values() if x.ndim == 4]
    assert len(maps) >= 4 and maps[0] == size // 4 and maps[-1] == size // 32
    assert list(found)[-2:] == ["features", "logits"]


@pytest.mark.parametrize("policy", ["single", "multi"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_learns_under_both_label_policies(recipe: str, policy: str) -> None:
    loaded = load(recipe, overrides(recipe, policy))
    exclusive = policy == "single"
    graph = assemble(loaded, task(exclusive=exclusive, counts=(20, 10, 5), images=60))
    before = {k: v.clone() for k, v in graph.networks["classifier"].named_parameters()}
    losses = [train(graph, exclusive, step) for step in range(8)]
    assert losses[-1] < losses[0]
    for name, value in graph.networks["classifier"].named_parameters():
        assert bool(value.isfinite().all()) and not torch.equal(value, before[name]), name


def train(graph: TrainingGraph, exclusive: bool, number: int) -> float:
    """One update on the same batch; the loss before it."""
    labels = torch.arange(6) % 3
    given = labels if exclusive else F.one_hot(labels, 3).float()
    step = graph.step(images(n=6), given, rng("cpu", 0, "latent"))
    values, gradients = graph.gradients(step)
    graph.update(gradients, number)
    return float(values["classification"])


def test_the_recipes_have_the_publications_values() -> None:
    trees = {name: load(name, ["classifier.weights=random"]).resolved() for name in RECIPES}
    for tree in trees.values():
        assert set(tree["data"]["classes"]) == set(ChestXray14.classes) - {"No Finding"}
        assert tree["data"]["label_policy"] == "multi"
        assert tree["data"]["augmentation"]["flip"] == 0.5
        assert tree["evaluation"]["protocol"] == "multilabel14"
        assert tree["run"]["batch_size"] == 16
        optimizer = tree["classifier"]["optimizer"]
        assert (optimizer["name"], optimizer["lr"]) == ("adam", 0.001)
    assert [trees[name]["data"]["image_size"] for name in RECIPES] == [224, 224, 512]
    assert trees["chexnet"]["classifier"]["class_weights"] is True
    assert trees["cral"]["classifier"]["backbone"] == "resnet50"
    grid = trees["li_patch_grid"]["classifier"]
    assert (grid["backbone"], grid["grid"], grid["lowest"]) == ("resnet50", 16, 0.98)


# -- CheXNet ---------------------------------------------------------------------------------------


def published(folder: Path) -> tuple[Path, nn.Module]:
    """torchvision's network, and its weights in a file that names them as its downloads do."""
    torch.manual_seed(0)
    network = torchvision.models.densenet121(weights=None, num_classes=3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    names = {f"{kind}{i}": f"{kind}.{i}" for kind in ("norm", "conv") for i in (1, 2)}
    weights = {}
    for key, value in network.state_dict().items():
        parts = [names.get(part, part) if "denselayer" in key else part for part in key.split(".")]
        if parts[-1] != "num_batches_tracked":
            weights[".".join(parts)] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in weights
    torch.save(weights, folder / "densenet121.pth")
    return folder / "densenet121.pth", network


@torch.no_grad()
def test_published_weights_give_the_published_network_on_grey_images(tmp_path: Path) -> None:
    file, reference = published(tmp_path)
    ours = DenseNet121(task(), weights=file).eval()
    found = ours(images())
    grey = ((images() + 1) / 2 - 0.449) / 0.226
    expected = reference(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found["logits"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.network.classifier(found["features"]), found["logits"])

    weights = read_weights(file)
    del weights["features.denseblock2.denselayer3.conv.2.weight"]
    torch.save(weights, tmp_path / "incomplete.pth")
    with pytest.raises(UserError, match=r"'features\.denseblock2\.denselayer3\.conv2\.weight'"):
        DenseNet121(task(), weights=tmp_path / "incomplete.pth")


def test_the_smallest_image() -> None:
    with pytest.raises(UserError, match="29 pixels or more"):
        DenseNet121(task(28))
    assert DenseNet121(task(29))(images(29))["denseblock4"].shape[-1] == 1


def eq_1(logit: float, y: float, with_it: int, without: int) -> float:
    """CheXNet's loss of one label."""
    p = 1 / (1 + math.exp(-logit))
    w_plus = without / (with_it + without)
    w_minus = with_it / (with_it + without)
    return -w_plus * y * math.log(p) - w_minus * (1 - y) * math.log(1 - p)


def test_chexnets_eq_1() -> None:
    counts, total = (30, 7, 0), 60
    network = DenseNet121(task(counts=counts, images=total), class_weights=True)
    logits, labels = normal(0, 8, 3, scale=2), (normal(1, 8, 3) > 0).float()
    expected = [
        math.fsum(
            eq_1(x, y, count, total - count) for x, y, count in zip(*row, counts, strict=True)
        )
        / 3
        for row in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    found = network.losses(logits, labels)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
    )
    plain = DenseNet121(task(counts=counts, images=total))
    torch.testing.assert_close(
        plain.losses(logits, labels.double()), Classifier.losses(network, logits, labels.double())
    )


def test_eq_1_of_exclusive_classes() -> None:
    """Of two it is the binary loss of their difference; of more, each image's own weight."""
    two = DenseNet121(Task(32, ("a", "b"), True, (45, 15), 60), class_weights=True)
    logits, labels = normal(0, 8, 2, scale=2), torch.arange(8) % 2
    pairs = zip((logits[:, 1] - logits[:, 0]).tolist(), labels.tolist(), strict=True)
    expected = torch.tensor([eq_1(x, y, 15, 45) for x, y in pairs], dtype=torch.float64)
    torch.testing.assert_close(two.losses(logits, labels), expected, rtol=1e-6, atol=0)

    three = DenseNet121(task(exclusive=True, counts=(30, 20, 10), images=60), class_weights=True)
    logits, labels = normal(1, 6, 3), torch.arange(6) % 3
    own = torch.tensor([1 / 2, 2 / 3, 5 / 6], dtype=torch.float64)[labels]
    torch.testing.assert_close(
        three.losses(logits, labels), own * F.cross_entropy(logits, labels, reduction="none")
    )


def test_the_weights_come_from_the_training_images() -> None:
    recipe = load("chexnet", [*SMALL, "data.label_policy=multi"])
    data = prepare(recipe)
    train = data.splits["train"]
    assert data.task.images == len(train) > max(data.task.counts or ())
    with_it = torch.from_numpy(train.label_matrix).float().mean(dim=0)
    network = assemble(recipe, data.task).networks["classifier"]
    torch.testing.assert_close(network.positive, 1 - with_it)
    assert "positive" not in network.state_dict()  # a checkpoint holds what was learned


# -- CRAL ------------------------------------------------------------------------------------------


def test_the_residual_attention_against_a_loop() -> None:
    maps, attention = normal(0, 2, 5, 3, 4), normal(1, 2, 3, 3, 4).sigmoid()
    weight, bias = normal(2, 3, 5), normal(3, 3)
    found = attended_logits(maps, attention, weight, bias)
    for n in range(2):
        for k in range(3):
            pooled = [
                math.fsum(
                    (1 + attention[n, k, i, j].item()) * maps[n, c, i, j].item()
                    for i in range(3)
                    for j in range(4)
                )
                / 12
                for c in range(5)
            ]
            expected = math.fsum(w * v for w, v in zip(weight[k].tolist(), pooled, strict=True))
            assert found[n, k].item() == pytest.approx(expected + bias[k].item(), rel=1e-12)
    assert gradcheck(attended_logits, [x.requires_grad_() for x in (maps, attention, weight, bias)])


@pytest.mark.parametrize("attention", ["sigmoid", "softmax"])
@torch.no_grad()
def test_cral_classifies_each_category_from_its_own_features(attention: Any) -> None:
    network = CRAL(task(96), backbone="resnet18", attention=attention, width=8).eval()
    found = network(images(96))
    maps = found["layer4"]
    weights = network.attend(maps)
    assert weights.shape == (3, 3, 3, 3) and weights.min() > 0 and weights.max() < 1
    if attention == "softmax":
        torch.testing.assert_close(weights.sum(dim=(2, 3)), torch.ones(3, 3))
    pooled = ((1 + weights[:, :, None]) * maps[:, None]).mean(dim=(3, 4))  # (N, K, C)
    own = torch.stack([network.last(pooled[:, k])[:, k] for k in range(3)], dim=1)
    torch.testing.assert_close(found["logits"], own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["features"], pooled.mean(dim=1), rtol=1e-4, atol=1e-5)


# -- Li et al. -------------------------------------------------------------------------------------


def at_least_one(patches: list[float], lowest: str) -> Decimal:
    """Log odds of 1 - prod_j q_j, to five hundred digits."""
    with localcontext() as context:
        context.prec = 500
        absent, a = Decimal(1), Decimal(lowest)
        for z in patches:
            p = 1 / (1 + Decimal(-z).exp())
            absent *= a + (1 - a) * (1 - p)
        return ((1 - absent) / absent).ln()


@given(
    patches=st.lists(st.floats(-400, 400, width=32), min_size=1, max_size=16),
    lowest=st.sampled_from(["0", "0.5", "0.98"]),
)
@settings(deadline=None, max_examples=150)
def test_the_image_has_what_any_patch_has(patches: list[float], lowest: str) -> None:
    z = torch.tensor(patches, dtype=torch.float32)[None, None, None]
    found = image_logits(z, float(lowest)).item()
    expected = float(at_least_one(patches, lowest))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("lowest", [0.0, 0.98])
@pytest.mark.parametrize("patch", [-1e4, -1000.0, -200.0, 0.0, 200.0, 1000.0, 1e4])
def test_certain_patches_leave_loss_and_gradient_finite(patch: float, lowest: float) -> None:
    z = torch.full((2, 1, 16, 16), patch, requires_grad=True)
    logits = image_logits(z, lowest).float()
    loss = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.0], [1.0]]))
    (gradient,) = torch.autograd.grad(loss, z)
    assert bool(loss.isfinite()) and bool(gradient.isfinite().all())
    p = task().probabilities(logits)
    highest = 1 - lowest**256
    share = {-1: 0.0, 1: highest}.get((patch > 0) - (patch < 0))
    expected = 1 - ((1 + lowest) / 2) ** 256 if share is None else share
    torch.testing.assert_close(p, torch.full((2, 1), expected), rtol=1e-6, atol=0)


def test_the_gradient_reaches_every_patch() -> None:
    z = normal(0, 2, 2, 3, 3, scale=2).requires_grad_()
    assert gradcheck(image_logits, (z,))
    assert gradcheck(lambda x: image_logits(x, 0.98), (z,))


def test_a_softmax_over_them_is_exactly_one_of_independent_findings() -> None:
    patches = normal(0, 4, 3, 2, 2)
    logits = image_logits(patches)
    for row, found in zip(logits.sigmoid().tolist(), logits.softmax(dim=1).tolist(), strict=True):
        alone = [
            math.prod(p if i == k else 1 - p for i, p in enumerate(row)) for k in range(len(row))
        ]
        assert found == pytest.approx([value / sum(alone) for value in alone], rel=1e-12)


def test_maps_are_brought_to_the_grid() -> None:
    maps = normal(0, 2, 3, 4, 4)
    assert to_grid(maps, 4) is maps
    blocks = [[maps[..., i : i + 2, j : j + 2].amax(dim=(2, 3)) for j in (0, 2)] for i in (0, 2)]
    torch.testing.assert_close(
        to_grid(maps, 2), torch.stack([torch.stack(row, -1) for row in blocks], -2)
    )
    ramp = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2)
    torch.testing.assert_close(to_grid(ramp, 4)[0, 0, 1], torch.tensor([0.0, 0.25, 0.75, 1.0]))


@pytest.mark.parametrize(
    ("grid", "lowest", "start"), [(16, 0.98, 0.5), (16, 0.0, 0.5), (1, 0.0, 0.5), (4, 0.98, None)]
)
def test_an_untrained_image_probability(grid: int, lowest: float, start: float | None) -> None:
    network = PatchGrid(task(), backbone="resnet18", width=8, grid=grid, lowest=lowest)
    nn.init.zeros_(network.last.weight)
    found = network.eval()(images())
    # On a small grid no bias makes 1/2: the patches start even.
    expected = 1 - 0.99 ** (grid**2) if start is None else start
    p = task().probabilities(found["logits"])
    torch.testing.assert_close(p, torch.full((3, 3), expected), rtol=1e-5, atol=0)
    assert found["features"].shape == (3, 8)
