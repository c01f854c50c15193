"""Small networks and batches on which parts are checked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xraygan.data.batches import rows_of
from xraygan.data.metadata import encode
from xraygan.graph.step import TrainingStep
from xraygan.parts.interfaces import Classifier, Discriminator, Extractor, Generator
from xraygan.parts.part_config import PartConfig
from xraygan.parts.registry import Part
from xraygan.parts.task import Task
from xraygan.utils.precision import choose_precision
from xraygan.utils.seeding import rng

SIZE = 32
CLASSES = ("Cardiomegaly", "Effusion", "Edema")
METADATA = ("age", "sex")
TERMS = frozenset({"generator", "discriminator", "classification", "pseudo_label"})

_numbers = itertools.count()


def stand_in_task(*, exclusive: bool = True, size: int = SIZE) -> Task:
    """A task of three classes with ten training images each, and metadata."""
    return Task(size, CLASSES, exclusive, (10, 10, 10), 30, METADATA)


def checked(kind: str) -> PartConfig:
    """A placeholder for the checked part, where the core needs to name it."""
    part = Part(kind, "checked", "this plugin", "")
    return PartConfig(f"{kind} {next(_numbers)}", part, None, {})


class StandInGenerator(Generator):
    """Latents to images with one layer; conditional"""

    conditional = True
    latent_size = 8

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.size = task.image_size
        self.layer = nn.Linear(self.latent_size + task.condition_size, self.size**2)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        inputs = z if labels is None else torch.cat([z, labels], dim=1)
        return self.layer(inputs).tanh().view(-1, 1, self.size, self.size)


class StandInDiscriminator(Discriminator):
    """Images to logits with two layers"""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.LeakyReLU(0.2), nn.Flatten())
        self.head = nn.Linear(4 * (task.image_size // 4) ** 2, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.layers(images)).flatten()


class StandInClassifier(Classifier):
    """Images to logits with two convolutions and a layer"""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.first = nn.Conv2d(1, 4, 4, 4)
        self.second = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(8, len(task.classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images).tanh()
        second = self.second(first).tanh()
        features = second.mean(dim=(2, 3))
        # Steep, so that probabilities differ and some are near 1.
        return {"first": first, "second": second, "features": features} | {
            "logits": 20 * self.head(features)
        }


class StandInExtractor(Extractor):
    """Two feature maps"""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 4, 4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images.mean(dim=1, keepdim=True)).tanh()
        return {"first": first, "second": self.second(first).tanh()}


class AnyExtractor(dict[str, Extractor]):
    """A mapping that has an extractor for every name."""

    def __missing__(self, name: str) -> Extractor:
        extractor = StandInExtractor().requires_grad_(False)
        self[name] = extractor.to(self.device)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return True

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device


class Bench:
    """Stand-in networks, and training steps with them.

    Args:
        exclusive: whether an image has exactly one class, or any number.
        averages: the networks whose averages a step has, as the part declares them.
    """

    def __init__(
        self,
        *,
        exclusive: bool = True,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        size: int = SIZE,
        averages: Sequence[str] = (),
    ) -> None:
        self.task = stand_in_task(exclusive=exclusive, size=size)
        self.device = torch.device(device)
        self.autocast = choose_precision(precision, self.device)
        torch.manual_seed(0)
        kinds = {
            "generator": StandInGenerator,
            "discriminator": StandInDiscriminator,
            "classifier": StandInClassifier,
        }
        self.networks: dict[str, Any] = {n: k(self.task).to(self.device) for n, k in kinds.items()}
        self.averages = {n: kinds[n](self.task).to(self.device) for n in averages}
        self.extractors = AnyExtractor(self.device)

    def step(
        self, count: int = 6, order: Tensor | None = None, shard: tuple[int, int] = (0, 1)
    ) -> TrainingStep:
        """A step of ``count`` images; it is the same in every call.

        Args:
            order: ``(N,)``, a permutation of the batch's images, labels and latents.
            shard: the index of the part and the number of equal parts of the batch.
        """
        for network in self.networks.values():
            network.train()  # a check may have changed the mode
        source = rng("cpu", 0, "testing", count)
        k = len(self.task.classes)
        size = self.task.image_size
        real = torch.rand(count, 1, size, size, generator=source) * 2 - 1
        latents = torch.randn(count, StandInGenerator.latent_size, generator=source)
        labels, conditions = (
            torch.arange(count) % k
            if self.task.exclusive
            else (torch.rand(count, k, generator=source) < 0.5).float()
            for _ in range(2)
        )
        metadata = {"age": torch.full((count,), 50.0), "sex": torch.arange(count) % 2.0}
        order = (torch.arange(count) if order is None else order)[rows_of(count, shard)]
        step = TrainingStep(
            task=self.task,
            networks=self.networks,
            extractors=self.extractors,
            real=real[order].to(self.device),
            labels=labels[order].to(self.device),
            rng=rng(self.device, 0, "testing step"),
            metadata={name: values[order] for name, values in metadata.items()},
            progress=0.5,
            autocast=self.autocast,
            unlabelled=real.flip(0)[order].to(self.device),
            averages=self.averages,
            shard=shard,
            taken=TERMS,
        )
        # Latents and labels are set here; other random numbers are drawn from the step.
        step.__dict__["z"] = latents[order].to(self.device)
        step.__dict__["fake_labels"] = conditions[order].to(self.device)
        step.__dict__["fake_metadata"] = (
            encode(metadata, METADATA, count).flip(0)[order].to(self.device)
        )
        return step
