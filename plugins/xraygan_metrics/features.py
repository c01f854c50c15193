"""The base of metrics that compare images in the features of a network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from xraygan import Evaluation, Measurement, Metric


class FeatureMetric(Metric):
    """The base of comparisons of real and generated images in the features of a network.

    A subclass sets ``extractor``: ``"classifier"`` or a name of the recipe's extractors.
    """

    extractor: str

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        needed = {"generator"} | ({"classifier"} & {self.extractor})
        if not needed <= set(evaluation.networks):
            return {}
        real = evaluation.features(self.extractor, "reference")
        generated = evaluation.features(self.extractor, "generated")
        space = f"in the features of the extractor {self.extractor}"
        if self.extractor == "classifier":
            space = "by the run's own classifier"
        network = evaluation.network(*self.networks(evaluation))
        figures = self.measure(evaluation, real, generated, space)
        return {name: replace(one, network=network) for name, one in figures.items()}

    def networks(self, evaluation: Evaluation) -> tuple[str, ...]:
        """The networks that the figures depend on: at least the extractor."""
        return (self.extractor,)

    @abstractmethod
    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, space: str
    ) -> Mapping[str, Measurement]:
        """The figures of features ``(N, D)`` and ``(M, D)``, named ``FIGURE/EXTRACTOR``.

        ``space`` names the features in a note.
        """


def image_counts(evaluation: Evaluation, real: np.ndarray, generated: np.ndarray) -> str:
    """The numbers of compared images, for a note."""
    return f"{len(real)} {evaluation.reference_kind} and {len(generated)} generated images"


def generated_labels(evaluation: Evaluation) -> tuple[np.ndarray, str] | None:
    """Labels ``(M, K)`` 0/1 of the generated images, and the origin of the labels for a note.

    The labels are the conditions of a conditional generator, and otherwise the predictions of the
    run's classifier: the likeliest class, or every finding above 0.5. None if there is neither.
    """
    networks = evaluation.networks
    if networks["generator"].conditional:
        return evaluation.fake_labels.numpy(), "made for"
    if "classifier" not in networks:
        return None
    probs = evaluation.fake_probs
    predicted = probs > 0.5
    if evaluation.task.exclusive:
        predicted = np.eye(probs.shape[1], dtype=bool)[probs.argmax(axis=1)]
    return predicted.astype(np.uint8), "classified by the run's classifier as"
