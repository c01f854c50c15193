"""The projected discriminator: its mixing and logits against loops, what learns, a killed run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from resumed import digests_of_both
from torch import Tensor
from xraygan_timm.mixing import Mixing, doubling
from xraygan_timm.projected import (
    ConditionalProjectedDiscriminator,
    ProjectedDiscriminator,
    ScaleDiscriminator,
)

from xraygan import Task, UserError, testing
from xraygan.graph.build import assemble
from xraygan.recipe.loading import load

FINDINGS = ("Mass", "Edema", "Hernia")
KINDS = (ProjectedDiscriminator, ConditionalProjectedDiscriminator)
#: timm's own network for tests: the same strides, in a fraction of the time
SMALL = {"model": "test_efficientnet", "weights": "random", "width": 4}


def task(size: int = 64) -> Task:
    return Task(size, FINDINGS, exclusive=False)


def normal(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("cls", KINDS)
def test_it_passes_the_checks_of_a_discriminator(cls: type) -> None:
    testing.check_discriminator(cls, sizes=(64,), **SMALL)


# -- the mixing ------------------------------------------------------------------------------------


def doubled(coarse: Tensor, y: int, x: int) -> Tensor:
    """The value at a pixel of a map (C, s, s) that is interpolated to (C, 2 s, 2 s), aligned at its
    corners."""
    side = coarse.shape[-1]
    places = [p * (side - 1) / (2 * side - 1) for p in (y, x)]
    total = torch.zeros(len(coarse), dtype=coarse.dtype)
    for row in range(side):
        for column in range(side):
            shares = [max(0.0, 1 - abs(p - q)) for p, q in zip(places, (row, column), strict=True)]
            total += shares[0] * shares[1] * coarse[:, row, column]
    return total


@torch.no_grad()
def test_the_mixing_against_a_loop() -> None:
    mixing = Mixing((3, 2, 5), width=2).double()
    features = [normal(i, 1, c, s, s) for i, (c, s) in enumerate(((3, 8), (2, 4), (5, 2)))]
    found = mixing(features)
    assert [tuple(m.shape) for m in found] == [(1, 2, 8, 8), (1, 2, 4, 4), (1, 4, 2, 2)]
    assert mixing.channels == [2, 2, 4]
    coarser: Tensor | None = None
    for i in (2, 1, 0):
        one, three = mixing.across_channels[i], mixing.across_scales[i]
        side = features[i].shape[-1]
        mixed = torch.zeros(one.out_channels, side, side, dtype=torch.float64)
        for y in range(side):
            for x in range(side):
                mixed[:, y, x] = one.weight[:, :, 0, 0] @ features[i][0, :, y, x] + one.bias
                if coarser is not None:
                    mixed[:, y, x] += doubled(coarser, y, x)
        padded = F.pad(mixed, (1, 1, 1, 1))
        result = torch.zeros(three.out_channels, side, side, dtype=torch.float64)
        for y in range(side):
            for x in range(side):
                window = padded[:, y : y + 3, x : x + 3]
                result[:, y, x] = (three.weight * window).sum(dim=(1, 2, 3)) + three.bias
        torch.testing.assert_close(found[i][0], result, rtol=1e-6, atol=1e-7)
        coarser = result


def test_the_matrix_of_interpolation_is_pytorchs_with_aligned_corners() -> None:
    x = torch.randn(2, 3, 5, 5)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(doubling(5) @ x @ doubling(5).T, expected, rtol=1e-5, atol=1e-6)


# -- the logits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch"])
@torch.no_grad()
def test_a_scales_logit_against_a_loop(norm: Any) -> None:
    scale = ScaleDiscriminator(3, 8, 2, 0, norm=norm, minibatch_std=False).double().eval()
    mean, variance, gain, bias = (
        torch.zeros(2),
        torch.ones(2).double() - 1e-5,
        torch.ones(2),
        torch.zeros(2),
    )
    if norm == "batch":
        layer = scale.blocks[1]
        mean, variance, gain, bias = (
            layer.running_mean, layer.running_var, layer.weight, layer.bias
        )  # fmt: skip
        for seed, value in enumerate((mean, gain, bias)):
            value.copy_(normal(seed, 2))
        variance.copy_(normal(9, 2).square() + 0.5)
    maps = normal(4, 2, 3, 8, 8)
    found = scale(maps, None)
    first, last = scale.blocks[0].weight, scale.last.weight
    for n in range(2):
        padded, total = F.pad(maps[n], (1, 1, 1, 1)), 0.0
        for j in range(2):
            for y in range(4):
                for x in range(4):
                    window = padded[:, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4]
                    value = float((first[j] * window).sum()) - float(mean[j])
                    value = value / math.sqrt(float(variance[j]) + 1e-5)
                    value = value * float(gain[j]) + float(bias[j])
                    total += float(last[0, j, y, x]) * (value if value > 0 else 0.2 * value)
        assert float(found[n]) == pytest.approx(total, rel=1e-9)


@torch.no_grad()
def test_the_projection_is_linear_in_the_findings() -> None:
    network = ConditionalProjectedDiscriminator(task(), **SMALL).double().eval()
    images = normal(0, 2, 1, 64, 64)
    labels = torch.eye(3, dtype=torch.float64)

    def logits(label: Tensor) -> Tensor:
        return network(images, label.expand(2, -1))

    nothing = logits(torch.zeros(3, dtype=torch.float64))
    both = logits(labels[0] + labels[2]) - nothing
    torch.testing.assert_close(both, logits(labels[0]) + logits(labels[2]) - 2 * nothing)
    scale = network.scales[0]
    maps = network.mixing(network.features(images))[0]
    features = scale.last(scale.blocks(maps)).flatten(1)
    embedded = scale.embedding.weight[:, 1] + scale.embedding.bias
    expected = [math.fsum((embedded * row).tolist()) / 8 for row in features]
    found = scale(maps, labels[1:2].expand(2, -1))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_logit_is_the_mean_of_the_scales() -> None:
    network = ProjectedDiscriminator(task(), **SMALL).eval()
    each: list[Tensor] = []
    for scale in network.scales:
        scale.register_forward_hook(lambda module, given, out: each.append(out))
    logits = network(torch.randn(2, 1, 64, 64))
    assert len(each) == 4
    torch.testing.assert_close(logits, sum(each) / 4)


@torch.no_grad()
def test_an_image_is_judged_by_itself_unless_there_are_batch_norms() -> None:
    images = torch.randn(4, 1, 64, 64)
    for norm, alone in (("none", True), ("batch", False)):
        network = ProjectedDiscriminator(task(), norm=norm, **SMALL).eval()
        for module in network.scales.modules():
            module.training = isinstance(module, torch.nn.BatchNorm2d)
        first = [network(images[:count])[0] for count in (2, 4)]
        assert torch.allclose(*first, rtol=1e-4, atol=1e-6) == alone, norm


def test_with_the_deviation_an_image_is_judged_among_its_batch() -> None:
    network = ProjectedDiscriminator(task(), minibatch_std=True, **SMALL).eval()
    images = torch.randn(4, 1, 64, 64)
    same = images[:1].expand(4, -1, -1, -1)
    assert not torch.allclose(network(images)[0], network(same)[0])


@pytest.mark.parametrize("cls", KINDS)
def test_sizes(cls: type) -> None:
    with pytest.raises(UserError, match=r"size: 80 pixels are not a multiple of 32.*size.* to 96"):
        cls(task(80), **SMALL)
    network = cls(task(80), size=96, **SMALL)
    labels = [torch.eye(3)[:2]] if network.conditional else []
    assert network(torch.randn(2, 1, 80, 80), *labels).shape == (2,)


# -- what learns -----------------------------------------------------------------------------------


def test_only_the_small_discriminators_learn_and_gradients_reach_the_images() -> None:
    network = ProjectedDiscriminator(task(), **SMALL)
    network.train()
    assert not any(m.training for m in network.features.modules())
    frozen = [*network.features.parameters(), *network.mixing.parameters()]
    assert frozen and not any(p.requires_grad for p in frozen)
    before = {k: v.clone() for k, v in network.features.state_dict().items()}
    images = torch.randn(2, 1, 64, 64, requires_grad=True)
    network(images).sum().backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0
    assert all(p.grad is not None for p in network.scales.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.features.state_dict().items())


#: a GAN alone, of the smallest networks
SETTINGS = (
    "data.plugin=phantom",
    "data.images=60",
    "data.image_size=64",
    f"data.classes={json.dumps(FINDINGS)}",
    "data.label_policy=multi",
    *(f"{table}=false" for table in ("classifier", "labeler", "schedule", "metrics")),
    "generator.plugin=residual_conditional",
    "generator.width=2",
    "discriminator.plugin=projected_conditional",
    *(f"discriminator.{key}={value}" for key, value in SMALL.items()),
    "discriminator.average=0.9",
    "augmenter.plugin=diffaugment",
    "objective.plugin=hinge",
    "run.batch_size=4",
    "run.steps=3",
    "run.save_every=2",
)


def test_the_feature_network_runs_once_on_each_batch_of_a_step() -> None:
    graph = assemble(load("cgan", SETTINGS), task())
    seen: list[int] = []
    graph.networks["discriminator"].features.register_forward_hook(
        lambda module, given, out: seen.append(len(given[0]))
    )
    step = graph.step(
        torch.rand(4, 1, 64, 64) * 2 - 1,
        torch.eye(3)[torch.arange(4) % 3],
        torch.Generator().manual_seed(0),
    )
    graph.gradients(step)
    assert seen == [4, 4]  # the real and the generated images


def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = digests_of_both(load("cgan", SETTINGS), tmp_path, monkeypatch)
    assert whole == resumed
    assert {"discriminator.safetensors", "discriminator.average.safetensors"} < set(whole)
