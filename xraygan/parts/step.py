"""What scores, objectives, labelers, augmenters and extractors may read of a training step.

:class:`Step` states it; :class:`xraygan.graph.step.TrainingStep` computes it. Shapes are given for

- N, the images of the whole batch, on all ranks (processes that train one run together),
- n, the images that this rank holds; n = N in a run of one process,
- S, the side of an image; K, the classes; C, the numbers of a condition; M, the metadata in use.

Logits, probabilities, discriminator scores and labels are those of the whole batch, on every rank.
Images, feature maps, activations and metadata are this rank's rows.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .task import Task

T = TypeVar("T")
Batch = Literal["real", "fake"]


def _renamed(old: str, new: str) -> Callable[..., Any]:
    """A method under the name that it had in version 0.1.0."""

    def method(self: Step, *values: Any, **named: Any) -> Any:
        warnings.warn(f"Step.{old} is Step.{new} now", DeprecationWarning, stacklevel=2)
        return getattr(self, new)(*values, **named)

    return method


class Step(ABC):
    """One training batch and everything that is computed from it.

    Each value is computed on first use and then kept, so that a part which reads
    ``step.fake_probs`` runs no network that another part has run. A part must not change these
    tensors in place, and need not detach them: the recipe's ``trains`` says who learns.

    Attributes:
        task: the image size and the classes.
        networks: the run's networks by name: ``"generator"``, ``"discriminator"``,
            ``"classifier"``, ``"augmenter"`` and those that scores bring, as far as the run has
            them.
        extractors: the run's extractors (:class:`xraygan.Extractor`) by name.
        averages: moving averages (EMA) of networks by the networks' names.
        real: ``(n, 1, S, S)`` float32 real images, in the recipe's ``value_range`` ([-1, 1] by
            default).
        labels: ``(N,)`` int64 if an image has exactly one class, else ``(N, K)`` float.
        unlabelled: ``(n, 1, S, S)`` further real images without labels, where the recipe asks for
            them (``[data] unlabelled``), else None.
        metadata: ``age`` in years, ``sex`` (1 male, 0 female) and ``view`` (1 PA, 0 AP) of the real
            images, ``(n,)`` float each; NaN if unknown.
        rng: the source of the part's random numbers, on the device of ``real``. Each part has a
            stream of its own: what others draw does not change it.
        progress: the share of the run that is done, in [0, 1).
        elapsed: the same as a tensor, ``()`` float64 on the device of ``real``. A step whose parts
            read it instead of ``progress`` can be captured as a CUDA graph (``[run] compile``).
    """

    task: Task
    networks: Mapping[str, Any]
    extractors: Mapping[str, Any]
    averages: Mapping[str, Any]
    real: Tensor
    labels: Tensor
    unlabelled: Tensor | None
    metadata: Mapping[str, Tensor]
    rng: torch.Generator
    progress: float
    elapsed: Tensor

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """N, the images of the whole batch, those of other ranks included."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The K class names, in the order of every label vector."""

    # -- random numbers, ranks, the log ------------------------------------------------------------

    @abstractmethod
    def draw(self, make: Callable[[int], Tensor]) -> Tensor:
        """Random numbers for this rank's images: rows ``(n, ...)`` of what is drawn for the batch.

        Args:
            make: draws the rows ``(count, ...)`` of that many images, from :attr:`rng` alone.
        """

    @abstractmethod
    def gather(self, rows: Tensor) -> Tensor:
        """The whole batch's rows ``(N, ...)`` of a tensor ``(n, ...)``; differentiable."""

    @abstractmethod
    def share(self, rows: Tensor) -> Tensor:
        """This rank's rows ``(n, ...)`` of a tensor ``(N, ...)`` of the whole batch."""

    @abstractmethod
    def record(self, name: str, value: Tensor) -> None:
        """Log a scalar tensor ``()`` of this step, such as the share of labels that were kept.

        Args:
            name: how the log calls it; no term of the recipe may have the name.
        """

    @abstractmethod
    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, computed for the first part that asks for ``key`` and then kept.

        It draws from a random stream of its own, whoever asks first.

        Args:
            key: names the value, with all that it depends on beside the step.
        """

    # -- images and what they are conditioned on ---------------------------------------------------

    @property
    @abstractmethod
    def z(self) -> Tensor:
        """The latent noise of the generated images: ``(n, latent_size)``, standard normal."""

    @property
    @abstractmethod
    def fake(self) -> Tensor:
        """Generated images ``(n, 1, S, S)``, float32 in [-1, 1]."""

    @property
    @abstractmethod
    def fake_labels(self) -> Tensor:
        """The labels that a conditional generator is given, shaped as :attr:`labels`.

        Exclusive classes are drawn uniformly; label vectors are those of the real batch, shuffled.
        """

    @property
    @abstractmethod
    def real_metadata(self) -> Tensor:
        """The encoded metadata of the real images: ``(n, 2 M)`` float32."""

    @property
    @abstractmethod
    def fake_metadata(self) -> Tensor:
        """The encoded metadata that the generated images are to have: ``(n, 2 M)`` float32."""

    @abstractmethod
    def condition_vectors(self, batch: Batch) -> Tensor:
        """The conditions of the real or generated images, for conditional networks.

        Returns:
            ``(n, C)`` float32: the label vectors, then the encoded metadata.
        """

    # -- the discriminator -------------------------------------------------------------------------

    @property
    @abstractmethod
    def real_scores(self) -> Tensor:
        """Discriminator logits ``(N,)`` of the real batch, float32; positive: looks real."""

    @property
    @abstractmethod
    def fake_scores(self) -> Tensor:
        """Discriminator logits ``(N,)`` of the generated batch, float32; positive: looks real."""

    @abstractmethod
    def discriminator_pass(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The inputs and outputs of the discriminator, for penalties on its gradient.

        Read it in a step in which the discriminator learns. To penalize the gradient, differentiate
        the sum of the logits towards the images with ``create_graph=True``.

        Returns:
            images: ``(n, 1, S, S)``, before the augmenter, with ``requires_grad``.
            logits: ``(n,)`` float32 that were computed from them, not gathered from other ranks.

        Raises:
            UserError: the discriminator is compiled, and cannot be differentiated twice.
        """

    @abstractmethod
    def discriminate(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Discriminator logits ``(n,)`` float32 of other images, not gathered from other ranks.

        The augmenter changes the images first, in another way at each call.

        Args:
            images: ``(n, 1, S, S)``.
            labels: their conditions ``(n, C)``, for a conditional discriminator alone.
        """

    # -- the classifier ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def real_activations(self) -> dict[str, Tensor]:
        """The named activations that the classifier returns for the real images, ``(n, ...)``."""

    @property
    @abstractmethod
    def fake_activations(self) -> dict[str, Tensor]:
        """The named activations that it returns for the generated images, ``(n, ...)``."""

    @property
    @abstractmethod
    def real_logits(self) -> Tensor:
        """Classifier logits ``(N, K)`` of the real batch, float32."""

    @property
    @abstractmethod
    def fake_logits(self) -> Tensor:
        """Classifier logits ``(N, K)`` of the generated batch, float32."""

    @property
    @abstractmethod
    def real_probs(self) -> Tensor:
        """Class probabilities ``(N, K)`` of the real batch, float32 in [0, 1]."""

    @property
    @abstractmethod
    def fake_probs(self) -> Tensor:
        """Class probabilities ``(N, K)`` of the generated batch, float32 in [0, 1]."""

    @abstractmethod
    def classify(
        self,
        images: Tensor,
        metadata: Callable[[], Tensor] | None = None,
        *,
        averaged: bool = False,
    ) -> dict[str, Tensor]:
        """The named activations that the classifier returns for other images.

        Args:
            images: ``(m, 1, S, S)``.
            metadata: returns their encoded metadata ``(m, 2 M)``, for a classifier that reads it;
                without it, all is unknown.
            averaged: ask the classifier's moving average (:attr:`averages`) instead.
        """

    # -- extractors, and networks that a part brings -----------------------------------------------

    @abstractmethod
    def features(self, extractor: str, images: str | Tensor) -> dict[str, Tensor]:
        """An extractor's named feature maps, ``(n, C, H, W)`` each.

        Args:
            extractor: its name in the recipe.
            images: ``"real"``, ``"fake"``, or images ``(m, 1 or 3, S, S)``.
        """

    @abstractmethod
    def run(
        self, network: nn.Module, *inputs: Tensor, shape: Sequence[int] | None = None
    ) -> Tensor:
        """The output of a network in the run's precision (``run.precision``), as float32.

        Args:
            shape: the shape that the output must have; any by default.
        """

    once = _renamed("once", "cached")
    judged = _renamed("judged", "discriminator_pass")
    label_vectors = _renamed("label_vectors", "condition_vectors")
