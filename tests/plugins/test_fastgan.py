"""FastGAN: its parts against loops, what a label can change, and a run of it that is killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from resumed import digests_of_both
from torch import Tensor, nn
from xraygan_fastgan.blocks import NoiseInjection, SkipExcitation, Up
from xraygan_fastgan.generators import ConditionalFastGANGenerator, FastGANGenerator, channels_for

from xraygan import Task, UserError, testing
from xraygan.recipe.loading import load

FINDINGS = ("Mass", "Edema", "Hernia")
KINDS = (FastGANGenerator, ConditionalFastGANGenerator)


def task(size: int = 64, *, exclusive: bool = False) -> Task:
    return Task(size, FINDINGS, exclusive=exclusive)


def normal(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=found.dtype), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("cls", KINDS)
def test_it_passes_the_checks_of_a_generator(cls: type) -> None:
    testing.check_generator(cls, width=4, latent_size=8)


@pytest.mark.parametrize("cls", KINDS)
@torch.no_grad()
def test_images_of_every_size(cls: type) -> None:
    for size in (32, 64, 128, 256, 512):
        generator = cls(task(size), width=2, latent_size=8)
        labels = [torch.eye(3)[:2]] if generator.conditional else []
        assert generator(torch.randn(2, 8), *labels).shape == (2, 1, size, size)
    with pytest.raises(UserError, match=r"32, 64, 128, 256, 512 pixels; data.image_size is 96"):
        cls(task(96))


def test_the_channels_are_those_of_the_publication() -> None:
    # Liu et al.'s table of multipliers, at their width of 64
    expected = {4: 1024, 8: 512, 16: 256, 32: 128, 64: 128, 128: 64, 256: 32, 512: 16}
    assert {side: channels_for(side, 64) for side in expected} == expected
    generator = FastGANGenerator(task(512), width=64)
    for block, side in zip(generator.blocks, (8, 16, 32, 64, 128, 256, 512), strict=True):
        # a gated linear unit halves what a convolution gives
        assert block.convolutions[-1].weight.shape[0] == 2 * expected[side]
        assert len(block.convolutions) == (2 if side in (8, 32, 128, 512) else 1)
    assert set(generator.gates) == {"64", "128", "256", "512"}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_excitation_against_a_loop() -> None:
    gate = SkipExcitation(2, 3).double().eval()
    coarse, fine = normal(0, 2, 2, 8, 8), normal(1, 2, 3, 16, 16)
    first, second = gate.first.weight.detach(), gate.second.weight.detach()[:, :, 0, 0]
    for n in range(2):
        hidden = []
        for j in range(3):
            total = 0.0
            for c in range(2):
                for y in range(4):
                    for x in range(4):
                        square = coarse[n, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                        total += float(first[j, c, y, x]) * sum(square.flatten().tolist()) / 4
            hidden.append(total * sigmoid(total))
        for j in range(3):
            opened = sigmoid(sum(float(second[j, i]) * hidden[i] for i in range(3)))
            close(gate(coarse, fine)[n, j].detach(), (fine[n, j] * opened).tolist())


def test_noise_is_drawn_in_training_and_fixed_in_evaluation() -> None:
    noise = NoiseInjection(4)
    x = torch.zeros(3, 2, 4, 4)
    assert bool((noise(x) == 0).all()), "it starts without noise"
    noise.weight.data.fill_(2.0)
    torch.manual_seed(1)
    drawn = noise(x)
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, (2 * torch.randn(3, 1, 4, 4)).expand(3, 2, 4, 4))
    assert not torch.equal(drawn, noise(x))
    noise.eval()
    assert torch.equal(noise(x), (2 * noise.fixed).expand(3, 2, 4, 4))
    assert "fixed" in noise.state_dict()


def test_a_block_against_its_layers() -> None:
    block = Up(2, 3, 8, 0, deep=True).double()
    x = normal(0, 4, 2, 4, 4)
    for noise in block.noises:
        noise.weight.data.fill_(0.5)
    torch.manual_seed(3)
    found = block(x, None)
    torch.manual_seed(3)
    y = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for layer in block.convolutions:
        y = nn.functional.conv2d(y, layer.weight, padding=1)
        y = y + 0.5 * torch.randn(4, 1, 8, 8).double()
        over = {"dim": (0, 2, 3), "keepdim": True}
        y = (y - y.mean(**over)) / (y.var(correction=0, **over) + 1e-5).sqrt()
        y = y[:, :3] * torch.sigmoid(y[:, 3:])
    # the weights of a spectrally normalized layer change a little with each pass
    torch.testing.assert_close(found, y, rtol=0.05, atol=0.05)


def test_the_length_of_a_latent_vector_changes_nothing() -> None:
    generator = FastGANGenerator(task(), width=2, latent_size=8).eval()
    z = torch.randn(3, 8)
    torch.testing.assert_close(generator(z), generator(7 * z), rtol=1e-4, atol=1e-5)


def test_the_first_layer_keeps_the_variety_of_a_class() -> None:
    """Latents of the same label are spread to a variance of 1, whatever the labels are."""
    generator = ConditionalFastGANGenerator(task(), width=2, latent_size=64)
    seen: list[Tensor] = []
    generator.stem.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    normed: list[Tensor] = []
    generator.stem.norm.register_forward_hook(lambda module, given, out: normed.append(out))
    z, labels = torch.randn(64, 64), torch.eye(3)[torch.arange(64) % 3]
    generator(z, labels)
    assert torch.equal(seen[0], z), "it takes the latent vectors alone"
    of_one_class = normed[0][labels[:, 0] == 1].detach()
    assert float(of_one_class.var(dim=0).mean()) == pytest.approx(1.0, abs=0.15)


def test_findings_and_metadata_add_up_in_the_norms() -> None:
    generator = ConditionalFastGANGenerator(
        Task(64, FINDINGS, exclusive=False, metadata=("age",)), width=2, latent_size=8
    )
    norm = generator.blocks[0].norms[0].double()
    gains = norm.gain.weight
    assert gains.shape[1] == 5  # three findings, an age and whether it is known
    condition = torch.tensor([[1.0, 0.0, 1.0, 0.5, 1.0]], dtype=torch.float64)
    expected = norm.gain.bias + gains[:, 0] + gains[:, 2] + 0.5 * gains[:, 3] + gains[:, 4]
    torch.testing.assert_close(norm.gain(condition)[0], expected)


def test_each_convolution_is_divided_by_its_largest_singular_value() -> None:
    generator = FastGANGenerator(task(), width=2, latent_size=8)
    for _ in range(200):
        generator(torch.randn(2, 8))
    layers = [
        m for m in generator.eval().modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(layers) == 10  # the stem, 2 + 1 + 2 + 1, two of the gate, the last
    for layer in layers:
        weight = layer.weight.detach().double()
        matrix = (
            weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
        ).flatten(1)
        assert np.linalg.svd(matrix.numpy(), compute_uv=False)[0] == pytest.approx(1, abs=0.02)


SETTINGS = (
    "data.plugin=phantom",
    "data.images=60",
    "data.image_size=64",
    f"data.classes={json.dumps(FINDINGS)}",
    "data.label_policy=multi",
    *(f"{table}=false" for table in ("classifier", "labeler", "schedule", "metrics")),
    "generator.plugin=fastgan_conditional",
    "generator.width=2",
    "generator.latent_size=8",
    "generator.average=0.9",
    "discriminator.plugin=projection",
    "discriminator.width=2",
    "run.batch_size=4",
    "run.steps=3",
    "run.save_every=2",
)


def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load("cgan", SETTINGS)
    whole, resumed = digests_of_both(recipe, tmp_path, monkeypatch)
    assert whole == resumed
    assert {"generator.safetensors", "generator.average.safetensors"} < set(whole)
