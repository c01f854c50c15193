"""The classification accuracy score: a classifier that is trained on generated images only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Classifier, Evaluation, Measurement, Metric
from xraygan.plugin_api import as_float32, derive_seed, rng, to_range

from .classification import Predictions, auc_of
from .features import generated_labels


class ClassificationAccuracyScore(Metric):
    """Classification accuracy score (CAS): accuracy of a classifier trained on generated images

    A new classifier, built as the recipe describes it, is trained on the generated images and
    tested on the real test images. Compare its accuracy and AUC with those of the run's own
    classifier: it cannot learn what the generator misses of the classes. The labels are the
    conditions of the generated images; for an unconditional generator, the predictions of the run's
    classifier, whose errors then limit the score. Images are not augmented. Intervals are
    bootstraps over test patients for this one classifier; use other seeds to see the variance of
    its training.

    Source: Ravuri and Vinyals, arXiv:1905.10887.

    Args:
        steps: number of training steps.
        batch_size: generated images in a batch, drawn with replacement.
        lr: Adam's learning rate.
        seed: seed of the initial weights and of the batches.
    """

    def __init__(
        self,
        *,
        steps: Annotated[int, Field(gt=0, le=1_000_000)] = 200,
        batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 32,
        lr: Annotated[float, Field(gt=0)] = 0.0005,
        seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.seed = seed

    def compute(self, evaluation: Evaluation) -> Mapping[str, Measurement]:
        if not {"generator", "classifier"} <= set(evaluation.networks):
            return {}
        labelled = generated_labels(evaluation)
        assert labelled is not None  # there is a classifier
        labels, origin = labelled
        fresh = self._train(evaluation, torch.from_numpy(labels))
        probs = evaluation.classify(evaluation.test.images, real=True, classifier=fresh)[1]
        figures = {"accuracy": Predictions.of(evaluation, probs).accuracy(evaluation)}
        figures |= auc_of(evaluation, probs)
        note = (
            f"by a classifier that saw {self.steps} batches of {self.batch_size} of {len(labels)} "
            f"generated images alone, labelled with the classes that they were {origin}"
        )
        return {
            f"cas/{name}": replace(one, note=f"{one.note}; {note}") for name, one in figures.items()
        }

    def _train(self, evaluation: Evaluation, labels: Tensor) -> Classifier:
        """Train a new classifier of the run's kind on the generated images."""
        device, task, images = evaluation.device, evaluation.task, evaluation.fake_images
        seed = derive_seed(self.seed, "classification_accuracy_score")
        network: Classifier = evaluation.new_classifier(seed).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=self.lr)
        targets = labels.argmax(dim=1) if task.exclusive else labels.float()
        source = rng("cpu", seed, "batches")
        torch.manual_seed(derive_seed(seed, "dropout"))
        for _ in range(self.steps):
            rows = torch.randint(len(images), (self.batch_size,), generator=source)
            batch = to_range(images[rows].to(device)[:, None], (-1.0, 1.0))
            with evaluation.autocast():
                logits = network(batch)["logits"]
            loss = network.losses(as_float32(logits), targets[rows].to(device)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network
