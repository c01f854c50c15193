"""What each kind of part must be: the classes that plugins subclass.

Constructors follow one rule: what the core gives is positional, what a recipe sets is keyword-only
with a type and a default. The keyword-only parameters *are* the part's options; a recipe's values
are checked against their annotations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .evaluation import Evaluation, Measurement
from .step import Step
from .task import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Generator(nn.Module, ABC):
    """Latent noise, and labels where it is conditional, to images.

    A subclass takes the :class:`Task` as its one positional parameter and sets ``latent_size``.
    """

    conditional: ClassVar[bool] = False
    latent_size: int

    @abstractmethod
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images.

        Args:
            z: ``(N, latent_size)``, standard normal.
            labels: ``(N, C)`` float, one-hot or multi-hot over the K classes and then the encoded
                metadata (C is the task's ``condition_size``); given only if ``conditional``.

        Returns:
            ``(N, 1, S, S)`` in [-1, 1].
        """


class Discriminator(nn.Module, ABC):
    """Images, and labels where it is conditional, to real/fake logits.

    A subclass takes the :class:`Task` as its one positional parameter.
    """

    conditional: ClassVar[bool] = False

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score images ``(N, 1, S, S)``: ``(N,)`` logits, positive where they look real.

        ``labels``, ``(N, C)`` float as a generator's, are given only if ``conditional``.
        """


class Classifier(nn.Module, ABC):
    """Images to class logits, and the activations on the way there.

    A subclass takes the :class:`Task` as its one positional parameter and keeps it as ``task``.

    Attributes:
        metadata: set it on an instance that reads the metadata too; ``forward`` is then given the
            encoded metadata ``(N, 2 M)`` second (:mod:`xraygan.data.metadata`), or nothing where
            all of it is unknown.
    """

    task: Task
    metadata: bool = False

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images ``(N, 1, S, S)`` in [-1, 1].

        Returns:
            Named activations in the order they are computed. Two are required: ``"features"``,
            ``(N, D)``, the input of the last layer, and ``"logits"``, ``(N, K)``. Feature maps
            ``(N, C, H, W)`` among them can serve as a loss network (the ``classifier`` extractor).
        """

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Classification loss of each image, ``(N,)``, in nats.

        Cross entropy where classes exclude each other, else the mean over the K labels of the
        binary cross entropy. ``labels`` are ``(N,)`` int64 or ``(N, K)`` float.
        """
        if self.task.exclusive:
            return F.cross_entropy(logits, labels, reduction="none")
        loss = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        return loss.mean(dim=1)


class Extractor(nn.Module, ABC):
    """A frozen network whose feature maps describe an image, to scores and to metrics.

    Metrics measure in its last map, averaged over places where that is ``(N, C, H, W)``.

    Attributes:
        style_layers: the maps whose Gram matrices describe style; None for every ``(N, C, H, W)``
            map that it returns.
        content_layer: the map that describes content; None for the last ``(N, C, H, W)`` map.
    """

    style_layers: tuple[str, ...] | None = None
    content_layer: str | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Named feature maps, in order, of grey images ``(N, 1, S, S)`` (or three channels)."""

    def extract(self, step: Step, images: Tensor | str) -> dict[str, Tensor]:
        """The features of ``"real"``, ``"fake"`` or any images within a training step.

        Called once per step for each set of images; override it to reuse what the step has already
        computed.
        """
        if isinstance(images, str):
            # Nothing is learned through a frozen network from images that are given.
            if images == "real":
                with torch.no_grad():
                    return self(step.real)
            return self(step.fake)
        return self(images)


class Score(nn.Module, ABC):
    """A regularization term: a number computed from one training step.

    Parameters registered on it (a style-transfer network, say) make it a network of the run, named
    as the recipe names the score, with an optimizer of its own. What it remembers from step to step
    are buffers (``register_buffer``): they are saved, so that a resumed run goes on to the same
    bits.

    Attributes:
        trains: the networks that learn from it unless the recipe's ``trains`` says otherwise.
        exclusive_only: True if it has a meaning only for a softmax over exclusive classes.
        reads: the networks it reads from the step, without which a recipe cannot use it.
        averages: the networks whose averages it reads (``step.averages``).
    """

    trains: ClassVar[tuple[str, ...]] = ("generator",)
    exclusive_only: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("generator", "classifier")
    averages: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def networks_read(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The networks that it reads with these options of the recipe; :attr:`reads` by default."""
        return cls.reads

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The score of this step as a scalar tensor, to be multiplied by its weight and minimized.

        Read tensors from ``step`` and return a value that autograd can differentiate; which
        networks learn from it is the recipe's choice, so never detach for that reason.
        """


class Objective(ABC):
    """The adversarial losses: what the generator and the discriminator minimize.

    One that remembers something from step to step is a ``torch.nn.Module`` too and keeps it in
    buffers, which are saved.
    """

    @abstractmethod
    def generator_loss(self, step: Step) -> Tensor:
        """Scalar loss of the generator, from ``step.fake_scores`` (and more)."""

    @abstractmethod
    def discriminator_loss(self, step: Step) -> Tensor:
        """Scalar loss of the discriminator, from ``step.real_scores`` and ``step.fake_scores``."""


class Augmenter(nn.Module, ABC):
    """What the discriminator sees of images: random changes, of real and generated ones alike.

    The generator learns through it, and penalties differentiate it twice: make changes of
    operations that autograd can differentiate twice, to the same bits on every device.

    What it remembers from step to step are buffers: they are saved with the networks, so that a
    resumed run goes on to the same bits. It has no optimizer.
    """

    @abstractmethod
    def forward(self, images: Tensor, step: Step) -> Tensor:
        """Change images ``(n, 1, S, S)``, each in its own way; the same shape.

        Random numbers come from ``step.rng`` through ``step.draw`` alone.
        """

    def watch(self, scores: Tensor) -> None:
        """See the discriminator's logits ``(N,)`` of the changed real batch.

        Called where the discriminator learns: once a step, or for each part of a batch that is
        accumulated. Of several ranks, each sees the logits of all. Note what :meth:`adapt` needs in
        buffers; a step that is left out puts them back.
        """

    def adapt(self, held: Tensor | None) -> None:
        """Adapt to what was watched, once a step, without waiting for the device.

        Args:
            held: ``()`` float32; where it is 1 the networks did not learn, and nothing that
                :meth:`forward` depends on may change.
        """


class Labeler(ABC):
    """Labels for generated images, from which the classifier learns.

    One that remembers something from step to step is a ``torch.nn.Module`` too and keeps it in
    buffers, which are saved.

    Attributes:
        needs_condition: True if it reads the labels that a conditional generator is given.
        averages: the networks whose averages it reads (``step.averages``).
    """

    needs_condition: ClassVar[bool] = False
    averages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        """Label the generated batch.

        Returns:
            labels: ``(N,)`` int64 or ``(N, K)`` float, without gradient.
            weights: ``(N,)`` float, 0 for an image to leave out. The loss is the weighted mean.
        """


class Dataset(ABC):
    """An index of images with findings and patients.

    A subclass takes the root folder as its one positional parameter (None where the recipe sets
    none) and raises :class:`~xraygan.UserError` where it is not laid out as it should be.

    Attributes:
        classes: every class name that it knows, in its own order.
        exclusive: True if each image has exactly one class by nature; a dataset whose images can
            have several findings leaves it False and the recipe's label policy decides.
        notes: what a user should know of the data; each is shown and logged when a run starts.
        left_out: images and files that :meth:`index` leaves out: reason -> how many.
        licence: that of the images, and whom to name, for what is published of a run; empty if it
            is unknown.
    """

    classes: tuple[str, ...]
    exclusive: ClassVar[bool] = False
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = MappingProxyType({})
    licence: ClassVar[str] = ""

    @abstractmethod
    def __init__(self, root: Path | None) -> None: ...

    @abstractmethod
    def index(self) -> pd.DataFrame:
        """One row an image.

        Columns: ``path`` (str, relative to the root, with ``/``), ``labels`` (tuple of class
        names), ``patient`` (str), ``split`` (``"train"``, ``"val"`` or ``"test"``), ``age`` (years,
        NaN if unknown), ``sex`` (``"M"``, ``"F"`` or ``""``), ``view`` (``"PA"``, ``"AP"``, ...).
        """

    @abstractmethod
    def load(self, path: str, size: int) -> np.ndarray:
        """The image of one row: ``(size, size)`` uint8.

        Called in several forked processes, or threads, at once: open files here, not earlier. Read
        images with :func:`xraygan.plugin_api.read_grey`, which follows ``[data] grey``; a
        :class:`~xraygan.UserError` says that one is unreadable.
        """

    def identity(self, path: str) -> str:
        """What changes when the image at ``path`` changes; the image store is keyed by it.

        Asked for every image whenever a run starts, and again when all are decoded. For files,
        return :func:`xraygan.plugin_api.file_identity`, which is also used where a dataset has no
        ``identity`` of its own and the recipe sets ``data.root``.
        """
        return path


class Metric(ABC):
    """A measurement of a trained run."""

    @abstractmethod
    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        """Measure. Keys name the figures, for example ``"auc/Hernia"``; an empty mapping where the
        run has no such network."""


class Tracker(ABC):
    """A receiver of a run's progress, besides ``metrics.jsonl``.

    A subclass takes the run directory as its one positional parameter. What it raises while the run
    trains is a warning, and the run goes on without it.
    """

    @abstractmethod
    def __init__(self, directory: Path) -> None: ...

    def begin(self, step: int) -> None:  # noqa: B027
        """The run starts, or goes on after that many steps: forget what was logged later."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Receive the values of one logged step, or, named ``validation/NAME`` (``evaluation/NAME``
        in a run without validation images), what was measured there."""

    def image(self, step: int, path: Path) -> None:  # noqa: B027  (most trackers keep numbers only)
        """Receive a sample grid that was written to ``path``."""

    def close(self) -> None:  # noqa: B027
        """The run has ended: evaluated, or interrupted."""
