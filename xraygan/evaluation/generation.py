"""Images from a trained generator, with the labels and metadata that they were asked for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xraygan.errors import UserError
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.contracts import floating
from xraygan.parts.plugin_errors import asking


class Generated(NamedTuple):
    """Generated images, on the CPU.

    Attributes:
        images: ``(N, S, S)`` uint8.
        labels: ``(N, K)`` uint8, what a conditional generator was asked for; zeros of another one.
        metadata: ``(N, 2 M)`` float32, the encoded metadata that it was asked for.
    """

    images: Tensor
    labels: Tensor
    metadata: Tensor


def generate(
    graph: TrainingGraph,
    count: int,
    source: torch.Generator,
    *,
    device: torch.device,
    batch_size: int = 64,
    labels: Tensor | None = None,
    metadata: Tensor | None = None,
) -> Generated:
    """Generate images with a graph's generator in evaluation mode.

    Args:
        graph: a graph with a generator.
        source: where latent noise and conditions are drawn from, on ``device``.
        labels: ``(L, K)`` 0/1: label vectors to condition on, drawn from at random; classes that
            exclude each other are drawn uniformly unless a single vector is given.
        metadata: ``(L, 2 M)`` encoded metadata to draw from alike, of the same images where there
            are as many label vectors; all is unknown without it.

    Raises:
        UserError: what the generator makes is NaN.
    """
    generator = graph.trained("generator")
    parts: list[Generated] = []
    was_training = generator.training
    generator.eval()
    with torch.inference_mode(), graph.autocast():
        for start in range(0, count, batch_size):
            n = min(batch_size, count - start)
            z = torch.randn(n, generator.latent_size, generator=source, device=device)
            wanted, told = _conditions(graph, n, source, labels, metadata)
            given = [torch.cat([wanted, told], dim=1)] if generator.conditional else []
            size = graph.task.image_size
            with asking(graph.choices.get("generator"), "forward(), in evaluation mode,"):
                made = floating(generator(z, *given), (n, 1, size, size))[:, 0].float()
            if made.isnan().any():  # of which uint8 would make black images, or any others
                raise UserError(
                    "the generator makes images that are not numbers (NaN): its weights are "
                    "spoilt. Take an earlier checkpoint, or train with a lower learning rate"
                )
            parts.append(Generated(to_uint8(made).cpu(), wanted.byte().cpu(), told.cpu()))
    generator.train(was_training)
    return Generated(*map(torch.cat, zip(*parts, strict=True)))


def _conditions(
    graph: TrainingGraph,
    count: int,
    source: torch.Generator,
    labels: Tensor | None,
    metadata: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Label vectors ``(N, K)`` float and encoded metadata ``(N, 2 M)`` to generate from; see
    :func:`generate`. An unconditional generator has no labels: zeros."""
    device, width = source.device, len(graph.task.classes)

    def draw(rows: int) -> Tensor:
        return torch.randint(rows, (count,), generator=source, device=device)

    pick: Tensor | None = None
    if not graph.trained("generator").conditional:
        wanted = torch.zeros(count, width, device=device)
    elif labels is not None and (len(labels) == 1 or not graph.task.exclusive):
        pick = draw(len(labels))
        wanted = labels.to(device)[pick].float()
    else:
        wanted = torch.eye(width, device=device)[draw(width)]
    if metadata is None or not graph.task.metadata:
        return wanted, torch.zeros(count, 2 * len(graph.task.metadata), device=device)
    if pick is None or labels is None or len(labels) != len(metadata):
        pick = draw(len(metadata))
    return wanted, metadata.to(device)[pick]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
