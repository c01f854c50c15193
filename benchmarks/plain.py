"""UCGAN's training step as one would write it by hand: the loop that benchmarks/step.py beats.

It follows the PyTorch DCGAN tutorial: each player's losses from passes of its own, ``backward()``,
an Adam for each network, float32. It computes what recipes/ucgan_full.toml computes, on the same
initial weights, which tests/test_benchmarks.py holds it to.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygan.graph.graph import TrainingGraph
from xraygan.recipe.loading import Recipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT = "relu4_2"


class PlainLoop:
    """The networks of a graph, copied, and a step that trains them.

    Args:
        graph: of ``ucgan_full``, whatever its sizes.
        recipe: the same recipe; its weights, threshold and learning rates are used.
    """

    def __init__(self, graph: TrainingGraph, recipe: Recipe) -> None:
        networks: dict[str, Any] = {
            name: copy.deepcopy(network).to(memory_format=torch.contiguous_format)
            for name, network in graph.networks.items()
        }
        self.generator = networks["generator"]
        self.discriminator = networks["discriminator"]
        self.classifier = networks["classifier"]
        self.transfer = networks["style_transfer"].transfer
        self.vgg = copy.deepcopy(graph.extractors["vgg19"]).to(
            memory_format=torch.contiguous_format
        )
        self.weights = {term.name: term.weight for term in graph.terms}
        self.threshold = recipe.choices["labeler"].options["threshold"]
        self.optimizers = [
            torch.optim.Adam(
                network.parameters(),
                lr=recipe.network(name).config.optimizer.lr,
                betas=recipe.network(name).config.optimizer.betas,
                weight_decay=recipe.network(name).config.optimizer.weight_decay,
            )
            for name, network in networks.items()
        ]

    def step(self, real: Tensor, labels: Tensor, z: Tensor) -> dict[str, float]:
        """Train on one batch; returns each term, unweighted."""
        losses: dict[str, Tensor] = {}
        fake = self.generator(z)

        # The generator and the transfer network.
        ones, zeros = (
            torch.ones(len(real), device=real.device),
            torch.zeros(len(real), device=real.device),
        )
        losses["generator"] = F.binary_cross_entropy_with_logits(self.discriminator(fake), ones)
        with torch.no_grad():
            real_probs = self.classifier(real)["logits"].softmax(dim=1)
            real_maps = self.maps(real)
        fake_probs = self.classifier(fake)["logits"].softmax(dim=1)
        losses["inception"] = inception(fake_probs)
        losses["mmd"] = mmd(real_probs, fake_probs)
        fake_maps = self.maps(fake)
        losses["gram"] = style(fake_maps, real_maps)
        stylized = self.maps(self.transfer(torch.cat([real, fake], dim=1)))
        losses["style_transfer"] = style(stylized, real_maps) + F.mse_loss(
            stylized[CONTENT], fake_maps[CONTENT]
        )
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.total(losses).backward()

        # The discriminator and the classifier; what the generator's losses left there is dropped.
        self.discriminator.zero_grad()
        self.classifier.zero_grad()
        apart = fake.detach()
        losses["discriminator"] = F.binary_cross_entropy_with_logits(
            self.discriminator(real), ones
        ) + F.binary_cross_entropy_with_logits(self.discriminator(apart), zeros)
        (self.weights["discriminator"] * losses["discriminator"]).backward()
        real_logits = self.classifier(real)["logits"]
        fake_logits = self.classifier(apart)["logits"]
        probs = fake_logits.softmax(dim=1)
        top, pseudo = probs.detach().max(dim=1)
        kept = (top > self.threshold).float()
        theirs = {
            "classification": F.cross_entropy(real_logits, labels),
            "pseudo_label": (F.cross_entropy(fake_logits, pseudo, reduction="none") * kept).sum()
            / kept.sum().clamp(min=1e-12),
            "inception": inception(probs),
            "mmd": mmd(real_logits.softmax(dim=1), probs),
        }
        self.total(theirs).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.item() for name, value in {**theirs, **losses}.items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """VGG-19's maps of grey images, repeated to three channels."""
        mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
        x = ((images.repeat(1, 3, 1, 1) + 1) / 2 - mean) / std
        found = {}
        for name, layer in zip(self.vgg.names, self.vgg.layers, strict=True):
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if name is not None:
                found[name] = x
        return found


def inception(probs: Tensor) -> Tensor:
    """E_i[KL(p_i || mean p)]."""
    marginal = probs.mean(dim=0)
    return (probs * (probs.log() - marginal.log())).sum(dim=1).mean()


def mmd(real: Tensor, fake: Tensor) -> Tensor:
    """The U-statistic of Eq. 8."""
    n = len(real)
    total = real.new_zeros(())
    for x, y, sign in ((real, real, 1), (real, fake, -2), (fake, fake, 1)):
        kernel = torch.exp(-torch.cdist(x, y).square())
        total = total + sign * (kernel.sum() - kernel.diagonal().sum())
    return total / (n * (n - 1))


def style(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """Eq. 9 over the style layers."""
    total = ours[STYLE[0]].new_zeros(())
    for layer in STYLE:
        difference = gram(ours[layer]) - gram(theirs[layer])
        total = total + difference.square().sum(dim=(1, 2)).mean()
    return total


def gram(maps: Tensor) -> Tensor:
    n, c, h, w = maps.shape
    flat = maps.reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)
