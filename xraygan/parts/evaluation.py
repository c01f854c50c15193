"""What metrics may read of a trained run, and the measurements that they return.

:class:`Evaluation` states it; :class:`xraygan.evaluation.evaluation.RunEvaluation` computes it.
Shapes are given for N, the images that are measured; M, the generated images and as many training
images as their reference; S, the side of an image; K, the classes; D, the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from .task import Task

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Measurement:
    """A measured quantity with what is needed to trust it.

    Attributes:
        value: the figure, or a nested list of them (a confusion matrix); None if there is none.
        n: how many images it was measured on.
        interval: the bounds of its 95 % confidence interval, where one was computed.
        note: the protocol in a few words, or why there is no value.
        resamples: the figure in each bootstrap resample of the test patients, NaN where it is not
            defined. Runs that are tested on the same patients share the resamples, so their
            differences can be compared within each.
        better: whether more of it is better, or less.
        limits: the least and the greatest value that the figure can have; None where it has none,
            or they are not known.
        network: a digest of the networks in whose features it was measured
            (:meth:`Evaluation.network`); empty if it was measured in none. Figures of other
            networks are not compared.
    """

    value: float | list[Any] | None
    n: int
    interval: tuple[float, float] | None = None
    note: str = ""
    resamples: np.ndarray | None = None
    better: Literal["higher", "lower"] = "higher"
    limits: tuple[float, float] | None = None
    network: str = ""


class Images(Protocol):
    """Images that are read when they are indexed, as a tensor ``(N, S, S)`` uint8 is."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        """``(n, S, S)`` uint8, of a slice or of rows ``(n,)`` int64."""

    def take(self, rows: Tensor) -> Images:
        """Some of them, not read yet, by their rows ``(n,)`` int64."""

    def to(self, device: torch.device) -> Tensor:
        """All of them on a device."""


class SplitImages(Protocol):
    """The images of a split and what is known of each.

    Attributes:
        images: ``(N, S, S)`` uint8, read when they are indexed.
        label_matrix: ``(N, K)`` uint8, 1 where the image has the class.
        patients: ``(N,)`` str.
        paths: N of them, as the dataset plugin names them.
        metadata: ``age`` in years, ``sex`` (1 male, 0 female) and ``view`` (1 PA, 0 AP), each
            ``(N,)`` float32, NaN where it is unknown.
    """

    @property
    def images(self) -> Images: ...
    @property
    def label_matrix(self) -> np.ndarray: ...
    @property
    def patients(self) -> np.ndarray: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def metadata(self) -> dict[str, np.ndarray]: ...

    def __len__(self) -> int: ...


class Evaluation(ABC):
    """A trained run and the data it is measured on; everything is computed on first use.

    Attributes:
        task: the image size and the classes.
        device: where the networks are.
        split: ``"test"`` or ``"val"``: which images are measured.
        reference_kind: what a note calls the reference images: ``"training"``, or :attr:`kind`
            where they are the images that are measured (``[evaluation] reference``).
    """

    task: Task
    device: torch.device
    split: str
    reference_kind: str = "training"

    @property
    @abstractmethod
    def seed(self) -> int:
        """The run's seed; derive each random stream from it (:func:`xraygan.plugin_api.rng`)."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """How many images a network is given at a time (``[evaluation] batch_size``)."""

    @property
    @abstractmethod
    def value_range(self) -> tuple[float, float]:
        """The values of black and white in the real images that networks see, such as (-1, 1)."""

    @property
    @abstractmethod
    def classes(self) -> dict[str, int]:
        """The classes that are measured, and their columns in label and probability arrays."""

    # -- networks ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, Any]:
        """The run's networks by name; ask here which of them the run has."""

    @abstractmethod
    def autocast(self) -> AbstractContextManager:
        """The context in which the run's networks run (mixed precision)."""

    @abstractmethod
    def new_classifier(self, seed: int) -> Any:
        """A classifier as the recipe describes it (:class:`xraygan.Classifier`), not trained.

        Args:
            seed: of its initial weights.
        """

    @abstractmethod
    def network(self, *extractors: str) -> str:
        """A digest of networks' weights, for :attr:`Measurement.network`.

        Args:
            extractors: ``"classifier"`` for the run's own, or names of the recipe's extractors.
        """

    # -- the images that are measured, and the training images -------------------------------------

    @property
    @abstractmethod
    def test(self) -> SplitImages:
        """The images that are measured: test images, or those of another :attr:`split`."""

    @property
    @abstractmethod
    def train(self) -> SplitImages:
        """The training images."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """``"test"`` or ``"validation"``: what a note calls the images that are measured."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """The labels of the images that are measured: ``(N, K)`` uint8, 0 or 1."""

    @property
    @abstractmethod
    def patients(self) -> np.ndarray:
        """The patient of each image that is measured: ``(N,)`` str."""

    @property
    @abstractmethod
    def probs(self) -> np.ndarray:
        """The classifier's probabilities for them: ``(N, K)`` float64 in [0, 1]."""

    # -- the images that choices are made on -------------------------------------------------------

    @property
    def validation(self) -> SplitImages | None:
        """The validation images, V of them, on which a metric chooses a threshold, for example.

        None if there are none, or if they are the images that are measured.
        """
        return None

    @property
    def validation_probs(self) -> np.ndarray:
        """The classifier's probabilities for them: ``(V, K)`` float64 in [0, 1].

        Raises:
            ValueError: there are no :attr:`validation` images.
        """
        raise ValueError("there are no validation images")

    # -- generated images and their reference ------------------------------------------------------

    @property
    @abstractmethod
    def fake_images(self) -> Tensor:
        """Generated images ``(M, S, S)`` uint8, as they would be saved."""

    @property
    @abstractmethod
    def fake_labels(self) -> Tensor:
        """The classes they were generated from: ``(M, K)`` uint8, 0 or 1; zeros if none."""

    @property
    @abstractmethod
    def fake_features(self) -> np.ndarray:
        """The classifier's features of the generated images: ``(M, D)`` float64."""

    @property
    @abstractmethod
    def fake_probs(self) -> np.ndarray:
        """The classifier's probabilities for the generated images: ``(M, K)`` float64."""

    @property
    @abstractmethod
    def reference_images(self) -> Tensor:
        """Random images ``(M, S, S)`` uint8 that generated images are compared with.

        They are training images, or with ``[evaluation] reference = "held_out"`` images that are
        measured; fewer than generated images where there are fewer.
        """

    @property
    @abstractmethod
    def reference_labels(self) -> np.ndarray:
        """The labels of the reference images: ``(M, K)`` uint8, 0 or 1."""

    @property
    @abstractmethod
    def reference_features(self) -> np.ndarray:
        """The classifier's features of the reference images: ``(M, D)`` float64."""

    @abstractmethod
    def features(self, extractor: str, which: Literal["reference", "generated"]) -> np.ndarray:
        """A network's features of the reference or of the generated images, computed once.

        Args:
            extractor: ``"classifier"`` for the run's own, or a name of the recipe's extractors for
                its last map, see :meth:`extract`.

        Returns:
            ``(M, D)`` float64.

        Raises:
            UserError: the extractor reads what only a training step has.
        """

    # -- networks on other images ------------------------------------------------------------------

    @abstractmethod
    def classify(
        self,
        images: Tensor | Images,
        metadata: Tensor | None = None,
        *,
        real: bool,
        classifier: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and probabilities of images, by a classifier in evaluation mode.

        Args:
            images: ``(n, S, S)`` uint8.
            metadata: their encoded metadata ``(n, 2 M)``; all is unknown without it.
            real: whether they are in the recipe's value range, as real images are, or generated.
            classifier: a :class:`xraygan.Classifier` to ask; the run's own by default.

        Returns:
            ``(n, D)`` and ``(n, K)`` float64.
        """

    @abstractmethod
    def extract(self, network: nn.Module, images: Tensor) -> np.ndarray:
        """An extractor's last map of images, averaged over its positions, in float32 networks.

        Real and generated images alike are black at -1 and white at 1, so that what is measured in
        a published network can be compared between runs.

        Args:
            network: a :class:`xraygan.Extractor`.
            images: ``(n, S, S)`` uint8.

        Returns:
            ``(n, D)`` float64.
        """

    # -- intervals ---------------------------------------------------------------------------------

    @abstractmethod
    def over_patients(
        self,
        value: float,
        statistic: Callable[[np.ndarray], float],
        note: str = "",
        n: int | None = None,
    ) -> Measurement:
        """A figure with its 95 % percentile-bootstrap interval over the patients.

        A share or an AUC has a better interval, made from the resamples that this returns: see
        :func:`xraygan.plugin_api.share_interval` and :func:`xraygan.plugin_api.auc_interval`.

        Args:
            value: the figure.
            statistic: the figure from image weights ``(N,)``: how often each image's patient was
                drawn. It returns NaN where a resample does not define it.
            note: see :class:`Measurement`.
            n: how many images it was measured on; all of the split by default.
        """

    @abstractmethod
    def over_generated(
        self, value: float, statistic: Callable[[np.ndarray], float], note: str = ""
    ) -> Measurement:
        """The same over generated images, each drawn on its own; weights ``(M,)``."""
