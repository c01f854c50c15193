"""The residual networks: their parts against loops, and a run of them that is killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from resumed import digests_of_both
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from xraygan_residual.blocks import SelfAttention
from xraygan_residual.discriminators import ProjectionDiscriminator, ResidualDiscriminator
from xraygan_residual.generators import ConditionalResidualGenerator, ResidualGenerator

from xraygan import Task, UserError, testing
from xraygan.recipe.loading import load

FINDINGS = ("Mass", "Edema", "Hernia")
#: of two images: one with two findings, one with another
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
KINDS = {
    "plain": (ResidualGenerator, ResidualDiscriminator),
    "conditional": (ConditionalResidualGenerator, ProjectionDiscriminator),
}


def task(size: int = 32) -> Task:
    return Task(size, FINDINGS, exclusive=False)


def normal(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def drawn(network: nn.Module, scale: float = 0.5) -> nn.Module:
    """The network in float64, in evaluation mode, none of whose parameters is what it begins as."""
    network.double().eval()
    for seed, parameter in enumerate(network.parameters()):
        parameter.data += scale * normal(seed, *parameter.shape) / math.sqrt(len(parameter))
    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 512])
@torch.no_grad()
def test_images_of_every_size(kind: str, size: int) -> None:
    generator, discriminator = (
        cls(task(size), width=1, attention=size // 4 if size < 512 else 8) for cls in KINDS[kind]
    )
    labels = [LABELS.float()] if generator.conditional else []
    images = generator(torch.randn(2, generator.latent_size), *labels)
    assert images.shape == (2, 1, size, size)
    assert discriminator(images, *labels).shape == (2,)


@pytest.mark.parametrize("cls", [ResidualGenerator, ProjectionDiscriminator])
def test_what_there_is_no_network_for_is_refused(cls: type) -> None:
    with pytest.raises(UserError, match=r"32, 64, 128, 256, 512 pixels; data.image_size is 48"):
        cls(task(48))
    for attention in (4, 12, 64):
        fault = f"{attention} is not the side of a map; .* maps of 8, 16, 32 pixels"
        with pytest.raises(UserError, match=fault):
            cls(task(64), attention=attention)


def test_the_attention_against_a_loop() -> None:
    attention = drawn(SelfAttention(8))
    attention_against_a_loop(attention, normal(0, 2, 8, 4, 4))
    given = (normal(1, 1, 8, 2, 2).requires_grad_(),)
    assert gradcheck(attention, given) and gradgradcheck(attention, given)


@torch.no_grad()
def attention_against_a_loop(attention: SelfAttention, x: Tensor) -> None:
    found = attention(x)
    weight = {name: value.flatten(1) for name, value in attention.named_parameters() if "w" in name}

    def layer(name: str, values: Tensor) -> Tensor:
        return weight[f"{name}.weight"] @ values

    for n in range(2):
        coarse = [
            x[n, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2))
            for i in range(2)
            for j in range(2)
        ]
        for i in range(4):
            for j in range(4):
                query = layer("query", x[n, :, i, j])
                looks = [
                    math.exp(float(query @ layer("key", c)) / math.sqrt(len(query))) for c in coarse
                ]
                seen = sum(
                    look / math.fsum(looks) * layer("value", c)
                    for look, c in zip(looks, coarse, strict=True)
                )
                expected = x[n, :, i, j] + attention.gamma * layer("out", seen)
                torch.testing.assert_close(found[n, :, i, j], expected, rtol=1e-10, atol=1e-12)


def test_with_it_an_image_is_judged_among_the_others_of_its_batch() -> None:
    with pytest.raises(testing.CheckFailed) as caught:
        testing.check_discriminator(ResidualDiscriminator, width=2, minibatch_std=True)
    assert set(caught.value.failures) == {"batch of one"}


@torch.no_grad()
def test_the_projection_is_the_sum_of_the_findings_embeddings() -> None:
    network = drawn(ProjectionDiscriminator(task(), width=2))
    images, nobody = normal(0, 2, 1, 32, 32), torch.zeros(2, 3, dtype=torch.float64)
    plain = network(images, nobody)
    seen: list[Tensor] = []
    network.head.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    logits = network(images, LABELS)
    for n in range(2):
        embedded = sum(network.embedding.weight[:, k] for k in range(3) if LABELS[n, k])
        expected = math.fsum((embedded * seen[0][n]).tolist())
        assert float((logits - plain)[n]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("cls", KINDS["conditional"])
def test_the_gradient_of_what_the_labels_do(cls: type) -> None:
    """Towards the labels and all that is linear in them, against finite differences."""
    network = drawn(cls(task(), width=1), scale=0.1)
    first = normal(0, 2, 1, 32, 32) if cls is ProjectionDiscriminator else normal(0, 2, 128)
    names = [n for n, _ in network.named_parameters() if n.startswith(("embed", "norm.", "head"))]
    given = [p.detach().requires_grad_() for n, p in network.named_parameters() if n in names]
    assert names

    def forward(labels: Tensor, *values: Tensor) -> Tensor:
        return functional_call(network, dict(zip(names, values, strict=True)), (first, labels))

    assert gradcheck(forward, (LABELS.clone().requires_grad_(), *given), fast_mode=True)


def test_a_gradient_penalty_is_that_of_each_image_alone() -> None:
    network = drawn(ResidualDiscriminator(task(), width=2, spectral_norm=True))

    def gradients(images: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        return torch.autograd.grad(network(images).sum(), images, create_graph=True)[0]

    images = normal(0, 3, 1, 32, 32)
    together = gradients(images)
    torch.testing.assert_close(together[:1], gradients(images[:1]))
    penalty = together.square().sum(dim=(1, 2, 3)).mean()
    found = torch.autograd.grad(penalty, [*network.parameters()], allow_unused=True)
    reached = [g for g in found if g is not None]
    assert len(reached) > 20 and all(bool(g.isfinite().all()) for g in reached)


def test_spectral_norms_follow_the_largest_singular_values() -> None:
    network = ProjectionDiscriminator(task(), width=2, spectral_norm=True)
    images, labels = torch.rand(2, 1, 32, 32), LABELS.float()
    for _ in range(100):
        network(images, labels)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) > 12
    for layer in network.eval().modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            matrix = layer.weight.detach().flatten(1).double().numpy()
            assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, abs=0.02)


# -- in a run --------------------------------------------------------------------------------------

#: a GAN alone, at a size that a test can afford, of networks with all that has a state
SETTINGS = (
    "data.plugin=phantom",
    "data.images=60",
    "data.image_size=32",
    f"data.classes={json.dumps(FINDINGS)}",
    "data.label_policy=multi",
    *(f"{table}=false" for table in ("classifier", "labeler", "schedule", "metrics")),
    *(f"{name}.width=2" for name in ("generator", "discriminator")),
    *(f"{name}.average=0.9" for name in ("generator", "discriminator")),
    "discriminator.spectral_norm=true",
    "run.batch_size=4",
    "run.steps=3",
    "run.save_every=2",
)
RUNS = {
    "plain": (
        "generator.plugin=residual",
        "discriminator.plugin=residual",
    ),
    "conditional": (
        "generator.plugin=residual_conditional",
        "discriminator.plugin=projection",
        "discriminator.minibatch_std=true",
        "run.precision=bf16",
        "run.accumulate=2",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load("cgan", [*SETTINGS, *RUNS[name]])
    whole, resumed = digests_of_both(recipe, tmp_path, monkeypatch)
    assert whole == resumed
    assert {"discriminator.safetensors", "discriminator.average.safetensors"} < set(whole)
