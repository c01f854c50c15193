"""Images of a trained generator, with the labels and metadata that they were conditioned on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xraygan.errors import UserError
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.contracts import floating
from xraygan.parts.plugin_errors import plugin_errors


class Generated(NamedTuple):
    """Generated images, on the CPU.

    Attributes:
        images: ``(N, S, S)`` uint8.
        labels: ``(N, K)`` uint8, the labels of a conditional generator; zeros for another one.
        metadata: ``(N, 2 M)`` float32, the encoded metadata of a conditional generator.
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
    as_labelled: bool = False,
) -> Generated:
    """Generate images with a graph's generator in evaluation mode.

    Args:
        graph: a graph with a generator.
        source: random number generator for latents and conditions, on ``device``.
        labels: ``(L, K)`` 0/1, label vectors from which conditions are drawn. Exclusive classes are
            drawn uniformly instead, unless there is only one vector, or ``as_labelled``.
        metadata: ``(L, 2 M)``, encoded metadata from which conditions are drawn; row by row
            together with the labels if there are as many. Without it all metadata are unknown.
        as_labelled: draw exclusive classes from ``labels`` too, as often as they occur there.

    Raises:
        UserError: the generated images are NaN.
    """
    generator = graph.trained("generator")
    parts: list[Generated] = []
    was_training = generator.training
    generator.eval()
    with torch.inference_mode(), graph.autocast():
        for start in range(0, count, batch_size):
            n = min(batch_size, count - start)
            z = torch.randn(n, generator.latent_size, generator=source, device=device)
            drawn_labels, drawn_metadata = _draw_conditions(
                graph, n, source, labels, metadata, as_labelled=as_labelled
            )
            conditions = [torch.cat([drawn_labels, drawn_metadata], dim=1)]
            inputs = [z, *(conditions if generator.conditional else [])]
            size = graph.task.image_size
            with plugin_errors(graph.choices.get("generator"), "forward(), in evaluation mode,"):
                images = floating(generator(*inputs), (n, 1, size, size))[:, 0].float()
            if images.isnan().any():  # as uint8 they would be arbitrary images
                raise UserError(
                    "the generator makes images that are not numbers (NaN), so its weights are "
                    "damaged. Choose an earlier checkpoint, or train with a lower learning rate"
                )
            parts.append(
                Generated(to_uint8(images).cpu(), drawn_labels.byte().cpu(), drawn_metadata.cpu())
            )
    generator.train(was_training)
    return Generated(*map(torch.cat, zip(*parts, strict=True)))


def _draw_conditions(
    graph: TrainingGraph,
    count: int,
    source: torch.Generator,
    labels: Tensor | None,
    metadata: Tensor | None,
    *,
    as_labelled: bool,
) -> tuple[Tensor, Tensor]:
    """Label vectors ``(N, K)`` float and encoded metadata ``(N, 2 M)`` to condition on.

    See :func:`generate`. The labels of an unconditional generator are zeros.
    """
    device, width = source.device, len(graph.task.classes)

    def draw(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=source, device=device)

    rows: Tensor | None = None
    if not graph.trained("generator").conditional:
        drawn = torch.zeros(count, width, device=device)
    elif labels is not None and (as_labelled or len(labels) == 1 or not graph.task.exclusive):
        rows = draw(len(labels))
        drawn = labels.to(device)[rows].float()
    else:
        drawn = torch.eye(width, device=device)[draw(width)]
    if metadata is None or not graph.task.metadata:
        return drawn, torch.zeros(count, 2 * len(graph.task.metadata), device=device)
    if rows is None or labels is None or len(labels) != len(metadata):
        rows = draw(len(metadata))
    return drawn, metadata.to(device)[rows]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 in [0, 255]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
