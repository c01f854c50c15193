"""What metrics of features share: whose features, of which images, and their labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from xraygan import Evaluation, Measurement, Metric


class FeatureMetric(Metric):
    """A comparison of training and generated images in the features of a network.

    A subclass keeps the option ``extractor``: ``"classifier"`` or a name of the recipe's
    extractors.
    """

    extractor: str

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        needed = {"generator"} | ({"classifier"} & {self.extractor})
        if not needed <= set(evaluation.networks):
            return {}
        real = evaluation.features(self.extractor, "reference")
        generated = evaluation.features(self.extractor, "generated")
        whose = f"in the features of the extractor {self.extractor}"
        if self.extractor == "classifier":
            whose = "by the run's own classifier"
        network = evaluation.network(*self.networks(evaluation))
        found = self.measure(evaluation, real, generated, whose)
        return {name: replace(one, network=network) for name, one in found.items()}

    def networks(self, evaluation: Evaluation) -> tuple[str, ...]:
        """The networks that its figures depend on: the extractor, or more."""
        return (self.extractor,)

    @abstractmethod
    def measure(
        self, evaluation: Evaluation, real: np.ndarray, generated: np.ndarray, whose: str
    ) -> Mapping[str, Measurement]:
        """The figures of features ``(N, D)`` and ``(M, D)``, named ``FIGURE/EXTRACTOR``.

        ``whose`` says in a note whose features they are.
        """


def counts(real: np.ndarray, generated: np.ndarray) -> str:
    """How many images were compared, for a note."""
    return f"{len(real)} training and {len(generated)} generated images"


def generated_labels(evaluation: Evaluation) -> tuple[np.ndarray, str] | None:
    """Labels ``(M, K)`` 0/1 of the generated images, and how they came by them.

    Those that a conditional generator was given, else what the run's classifier takes the images
    for: the likeliest class, or every finding above 0.5. None if there is neither.
    """
    networks = evaluation.networks
    if networks["generator"].conditional:
        return evaluation.fake_labels.numpy(), "made for"
    if "classifier" not in networks:
        return None
    probs = evaluation.fake_probs
    taken = probs > 0.5
    if evaluation.task.exclusive:
        taken = np.eye(probs.shape[1], dtype=bool)[probs.argmax(axis=1)]
    return taken.astype(np.uint8), "classified by the run's classifier as"
