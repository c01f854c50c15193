"""The evaluation of folders of images, of which no run is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xraygan.data.image_splits import ImageSplit
from xraygan.errors import UserError
from xraygan.graph.build import build_extractor
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.evaluation import Images
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.utils.seeding import rng

from .evaluation import RunEvaluation, evaluate, failure
from .generation import Generated

#: images of either side below which no control is measured: two in each block of the jackknife
LEAST = 20

Object = dict[str, Any]


@dataclass(frozen=True)
class UnknownGenerator:
    """Stands for the generator of a folder, so that metrics measure its images."""

    conditional: bool = False


class FolderEvaluation(RunEvaluation):
    """The evaluation of images in folders: of those only, since no network of a run is known.

    The metrics of a run measure it as they measure a run that has a generator and nothing else.

    Args:
        recipe: its ``[metrics]``, ``[extractors]``, ``[evaluation]`` and ``[run]`` are used.
        graph: of :func:`graph_of`.
        generated: the generated images.
        train: the real images that they are compared with.
        test: held-out images; none by default.
        device: where networks run.
    """

    reference_kind = "reference"  # type: ignore[assignment]

    def __init__(
        self,
        recipe: Recipe,
        graph: TrainingGraph,
        generated: ImageSplit,
        train: ImageSplit,
        device: torch.device,
        test: ImageSplit | None = None,
    ) -> None:
        none = train.take(np.arange(0))
        super().__init__(recipe, graph, train, none if test is None else test, device)
        self.generated = generated
        counts = {"generated": len(generated), "reference": "train"}
        self._config = self._config.model_copy(update=counts)

    @property
    def networks(self) -> Mapping[str, Any]:
        return {"generator": UnknownGenerator()}

    @cached_property
    def reference_rows(self) -> Tensor:
        return torch.arange(len(self.train))

    @cached_property
    def _generated(self) -> Generated:
        images, split = self.generated.images[:], self.generated
        return Generated(images, torch.from_numpy(split.label_matrix), split.encoded(()))

    def embed(self, extractor: str, images: Tensor | Images, real: bool) -> Tensor:
        """Images in the features of an extractor, a batch in memory at a time.

        Args:
            images: ``(N, S, S)`` uint8.
            real: whether they are real, for messages.

        Returns:
            ``(N, D)`` float64 on the device.

        Raises:
            UserError: the features are not finite, or need a training step.
        """
        network, size = self._extractor(extractor), self.batch_size
        starts = range(0, len(images), size)
        try:
            parts = [self.extract(network, images[i : i + size]) for i in starts]
        except (NotImplementedError, UserError) as error:
            raise UserError(f"[extractors.{extractor}] cannot measure: {error}") from None
        features = torch.from_numpy(np.concatenate(parts))
        if not features.isfinite().all():  # NaN would be nearest to no image
            raise UserError(
                f"[extractors.{extractor}]: the features of {'real' if real else 'generated'} "
                "images are not finite, so images cannot be compared in them; name another "
                "--extractor or other weights"
            )
        return features.to(self.device)

    def part(self, generated: np.ndarray, train: np.ndarray, *, real: bool) -> FolderEvaluation:
        """The evaluation of some images; features that were computed are not computed again.

        Args:
            generated: rows ``(n,)`` int64 of the images that take the place of generated ones.
            train: rows ``(n,)`` int64 of the reference images.
            real: whether ``generated`` are rows of the reference images, not of the generated.
        """
        source = self.train if real else self.generated
        which = "reference" if real else "generated"
        part = FolderEvaluation(
            self.recipe, self.graph, source.take(generated), self.train.take(train), self.device
        )
        part._digests = self._digests
        part._extracted = {
            name: {"reference": both["reference"][train], "generated": both[which][generated]}
            for name, both in self._extracted.items()
        }
        return part


def graph_of(recipe: Recipe, task: Task, extractors: tuple[str, ...]) -> TrainingGraph:
    """A graph without trained networks, with some extractors of the recipe.

    Raises:
        UserError: an extractor cannot be built, for example because its weights are missing.
    """
    built = {name: build_extractor(recipe, name, task) for name in extractors}
    return TrainingGraph(task, {}, built, [], {}, choices=recipe.choices)


def measure_folders(evaluation: FolderEvaluation) -> Object:
    """The figures of all metrics, and of the control that gives them a scale.

    The control compares one half of the reference images with the other half, as if these were
    generated. Since many figures depend on the number of images, as many generated images are
    compared with the same half: the two figures differ only in what is compared.

    Returns:
        ``metrics``, as in ``evaluation.json``, and ``control``: the number of ``images`` on either
        side, and by metric the figures of ``generated`` and of ``real`` images; or why there is
        none, as ``note``.

    Raises:
        UserError: metrics failed; the message says which and why.
    """
    metrics = _figures(evaluation)
    count = min(len(evaluation.generated), len(evaluation.train) // 2)
    if count < LEAST:
        note = (
            f"no control: it compares two halves of the reference images, and {LEAST} images on "
            f"either side are the least; there are {len(evaluation.generated)} generated and "
            f"{len(evaluation.train)} reference images"
        )
        return {"metrics": metrics, "control": {"images": 0, "note": note}}
    order = _order(evaluation, "halves", len(evaluation.train))
    half, other = order[:count], order[count : 2 * count]
    some = _order(evaluation, "generated", len(evaluation.generated))[:count]
    control = {
        "generated": _values(evaluation.part(some, half, real=False)),
        "real": _values(evaluation.part(other, half, real=True)),
    }
    return {"metrics": metrics, "control": {"images": count, **control}}


def _order(evaluation: FolderEvaluation, purpose: str, count: int) -> np.ndarray:
    """Numbers below ``count`` in random order, ``(count,)`` int64."""
    return torch.randperm(count, generator=rng("cpu", evaluation.seed, purpose)).numpy()


def _values(evaluation: FolderEvaluation) -> Object:
    """The value, the interval and n of each figure; the notes would name other images."""
    return {
        name: {key: one[key] for key in ("value", "interval", "n")}
        for name, one in _figures(evaluation).items()
    }


def _figures(evaluation: FolderEvaluation) -> Object:
    content, _, errors = evaluate(evaluation, 0)
    for error in errors.values():
        if not isinstance(error, UserError):
            raise error
    if errors:
        # Metrics that read one extractor fail for one reason.
        failures = dict.fromkeys(f"\n  {failure(error)}" for error in errors.values())
        raise UserError(f"could not be measured: {', '.join(errors)}:{''.join(failures)}")
    metrics: Object = content["metrics"]
    return metrics
