"""The evaluation of a run: predictions, generated images and features, and the metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xraygan._version import __version__
from xraygan.data.datamodule import to_range
from xraygan.data.image_splits import ImageSplit
from xraygan.data.split_names import SPLIT_NAMES
from xraygan.errors import NoFault, UserError, describe_error
from xraygan.graph.build import build_extractor
from xraygan.graph.graph import TrainingGraph
from xraygan.parts import contracts
from xraygan.parts.building import build
from xraygan.parts.evaluation import Evaluation, Images, Measurement
from xraygan.parts.interfaces import Classifier, Extractor, Metric
from xraygan.parts.part_config import PartConfig
from xraygan.parts.plugin_errors import BadAnswer, plugin_errors
from xraygan.parts.weights import weights_digest
from xraygan.recipe.files import plain
from xraygan.recipe.loading import Recipe
from xraygan.statistics.intervals import CONFIDENCE, percentile_interval
from xraygan.statistics.resampling import bootstrap
from xraygan.utils.seeding import rng

from .generation import Generated, generate


class RunEvaluation(Evaluation):
    """The evaluation of a run: implements :class:`Evaluation` with the run's networks.

    Everything is computed on first use and kept, so that metrics share the passes.

    Args:
        recipe: the run's recipe.
        graph: its networks; they are in evaluation mode only while they are used.
        train: the training images, or a function that returns them when they are first needed.
        test: the measured images, or a function that returns them.
        device: the device of the networks.
        split: ``"test"`` or ``"val"``, the split of the measured images.
        validation: returns the validation images, None if there are none; none by default.
    """

    split = "test"

    def __init__(
        self,
        recipe: Recipe,
        graph: TrainingGraph,
        train: ImageSplit | Callable[[], ImageSplit],
        test: ImageSplit | Callable[[], ImageSplit],
        device: torch.device,
        split: str = "test",
        validation: Callable[[], ImageSplit | None] = lambda: None,
    ) -> None:
        self.recipe = recipe
        self.graph = graph
        self.task = graph.task
        self._train = train
        self._test = test
        self._validation = validation
        self.device = device
        self.split = split
        self._config = recipe.tables.evaluation
        self._extracted: dict[str, dict[str, np.ndarray]] = {}
        self._digests: dict[str, str] = {}

    @cached_property
    def train(self) -> ImageSplit:
        return self._train() if callable(self._train) else self._train

    @cached_property
    def test(self) -> ImageSplit:
        return self._test() if callable(self._test) else self._test

    @property
    def seed(self) -> int:
        return self.recipe.tables.run.seed

    @property
    def batch_size(self) -> int:
        return self._config.batch_size

    @property
    def value_range(self) -> tuple[float, float]:
        return self.recipe.tables.data.value_range

    @property
    def classes(self) -> dict[str, int]:
        """The classes of ``[data] only``, or all classes."""
        only = self.recipe.tables.data.only or self.task.classes
        return {name: i for i, name in enumerate(self.task.classes) if name in only}

    # -- networks ----------------------------------------------------------------------------------

    @property
    def networks(self) -> Mapping[str, Any]:
        return self.graph.networks

    def autocast(self) -> AbstractContextManager:
        return self.graph.autocast()

    def new_classifier(self, seed: int) -> Classifier:
        return build(self.recipe.choices["classifier"], self.task, seed=seed)

    # -- the measured images -----------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return SPLIT_NAMES[self.split]

    @property
    def labels(self) -> np.ndarray:
        return self.test.label_matrix

    @property
    def patients(self) -> np.ndarray:
        return self.test.patients

    @cached_property
    def probs(self) -> np.ndarray:
        return self._probs_of(self.test)

    def _probs_of(self, split: ImageSplit) -> np.ndarray:
        return self.classify(split.images, self._metadata(split), real=True)[1]

    # -- the validation images ---------------------------------------------------------------------

    @cached_property
    def validation(self) -> ImageSplit | None:  # type: ignore[override]
        return None if self.split == "val" else self._validation()

    @cached_property
    def validation_probs(self) -> np.ndarray:  # type: ignore[override]
        return (
            super().validation_probs if self.validation is None else self._probs_of(self.validation)
        )

    # -- generated images and their reference ------------------------------------------------------

    @property
    def _reference(self) -> ImageSplit:
        """The split from which the reference images are drawn."""
        return self.test if self._config.reference == "held_out" else self.train

    @property
    def reference_kind(self) -> str:  # type: ignore[override]
        return self.kind if self._config.reference == "held_out" else SPLIT_NAMES["train"]

    @cached_property
    def reference_images(self) -> Tensor:
        return self._reference.images[self.reference_rows]

    @property
    def reference_labels(self) -> np.ndarray:
        return self._reference.label_matrix[self.reference_rows.numpy()]

    @cached_property
    def reference_rows(self) -> Tensor:
        """The rows ``(M,)`` int64 of the reference images in their split."""
        images = len(self._reference)
        order = torch.randperm(images, generator=rng("cpu", self.seed, "reference"))
        return order[: min(self._config.generated, images)]

    @cached_property
    def _generated(self) -> Generated:
        return generate(
            self.graph,
            self._config.generated,
            rng(self.device, self.seed, "evaluation"),
            device=self.device,
            batch_size=self.batch_size,
            labels=torch.from_numpy(self._reference.label_matrix),
            metadata=self._metadata(self._reference),
            as_labelled=self._config.reference == "held_out",
        )

    @property
    def fake_images(self) -> Tensor:
        return self._generated.images

    @property
    def fake_labels(self) -> Tensor:
        return self._generated.labels

    def _metadata(self, split: ImageSplit) -> Tensor:
        """The encoded metadata ``(N, 2 M)`` of a split's images."""
        return split.encoded(self.task.metadata)

    @cached_property
    def reference_features(self) -> np.ndarray:
        metadata = self._metadata(self._reference)[self.reference_rows]
        return self.classify(self.reference_images, metadata, real=True)[0]

    @cached_property
    def _fake_classified(self) -> tuple[np.ndarray, np.ndarray]:
        return self.classify(self.fake_images, self._generated.metadata, real=False)

    @property
    def fake_features(self) -> np.ndarray:
        return self._fake_classified[0]

    @property
    def fake_probs(self) -> np.ndarray:
        return self._fake_classified[1]

    def features(self, extractor: str, which: Literal["reference", "generated"]) -> np.ndarray:
        if extractor == "classifier":
            return self.reference_features if which == "reference" else self.fake_features
        if extractor not in self._extracted:
            network = self._extractor(extractor)
            self._digests[extractor] = weights_digest(network)
            images = {"reference": self.reference_images, "generated": self.fake_images}
            with plugin_errors(self.recipe.choices.get(f"extractors.{extractor}"), "forward()"):
                try:
                    features = {name: self.extract(network, x) for name, x in images.items()}
                except NotImplementedError as error:  # it needs the activations of a training step
                    raise UserError(f"[extractors.{extractor}] cannot measure: {error}") from None
            self._extracted[extractor] = features
        return self._extracted[extractor][which]

    def network(self, *extractors: str) -> str:
        for name in extractors:
            if name not in self._digests:
                own = name == "classifier"
                network = self.graph.trained(name) if own else self._extractor(name)
                self._digests[name] = weights_digest(network)
        return " ".join(self._digests[name] for name in extractors)

    def _extractor(self, name: str) -> Extractor:
        """An extractor of the graph; one that no score uses is built here."""
        built = self.graph.extractors
        return built[name] if name in built else build_extractor(self.recipe, name, self.task)

    # -- intervals ---------------------------------------------------------------------------------

    def over_patients(
        self,
        value: float,
        statistic: Callable[[np.ndarray], float],
        note: str = "",
        n: int | None = None,
    ) -> Measurement:
        patients, patient_of = np.unique(self.patients, return_inverse=True)
        resamples = self._config.bootstrap
        values = bootstrap(statistic, len(patients), lambda drawn: drawn[patient_of], resamples)
        n = len(self.labels) if n is None else n
        return Measurement(value, n, percentile_interval(values), note, values)

    def over_generated(
        self, value: float, statistic: Callable[[np.ndarray], float], note: str = ""
    ) -> Measurement:
        n = self._config.generated
        values = bootstrap(statistic, n, lambda drawn: drawn, self._config.bootstrap)
        return Measurement(value, n, percentile_interval(values), note)

    # -- passes ------------------------------------------------------------------------------------

    def classify(
        self,
        images: Tensor | Images,
        metadata: Tensor | None = None,
        *,
        real: bool,
        classifier: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        classifier = classifier or self.graph.trained("classifier")
        span = self.value_range if real else (-1.0, 1.0)
        features, probs = [], []
        was_training = classifier.training
        classifier.eval()
        with torch.inference_mode(), self.graph.autocast():
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                inputs = [to_range(images[part].to(self.device)[:, None], span)]
                if classifier.metadata and metadata is not None:
                    inputs.append(metadata[part].to(self.device))
                with plugin_errors(
                    self.recipe.choices.get("classifier"), "forward(), in evaluation mode,"
                ):
                    outputs = contracts.activations(classifier(*inputs), len(inputs[0]), self.task)
                features.append(outputs["features"].double().cpu())
                probs.append(self.task.probabilities(outputs["logits"]).double().cpu())
        classifier.train(was_training)
        return torch.cat(features).numpy(), torch.cat(probs).numpy()

    def extract(self, network: nn.Module, images: Tensor) -> np.ndarray:
        network.to(self.device)
        features = []
        with torch.inference_mode():
            for batch in images.split(self.batch_size):
                inputs = to_range(batch.to(self.device)[:, None], (-1.0, 1.0))
                maps = contracts.named_tensors(network(inputs), len(inputs))
                last = maps[list(maps)[-1]].double()
                features.append((last.flatten(2).mean(dim=2) if last.ndim > 2 else last).cpu())
        return torch.cat(features).numpy()


class Evaluated(NamedTuple):
    """The results of the metrics of a recipe.

    Attributes:
        content: the content of ``evaluation.json``.
        resamples: the content of ``bootstrap.csv``: one column for each metric, one row for each
            resample of the test patients.
        errors: the exceptions of metrics, by their names in the recipe.
    """

    content: dict[str, Any]
    resamples: pd.DataFrame
    errors: dict[str, Exception]


def evaluate(evaluation: RunEvaluation, step: int) -> Evaluated:
    """Compute every metric of the recipe; the exception of one does not stop the others."""
    recipe = evaluation.recipe
    metrics: dict[str, Any] = {}
    resamples: dict[str, np.ndarray] = {}
    errors: dict[str, Exception] = {}
    for choice in recipe.chosen("metrics").values():
        try:
            measured = _compute(choice, evaluation, metrics)
        except NoFault:
            raise
        except Exception as error:
            errors[choice.name] = error
            continue
        for name, measurement in measured.items():
            if measurement.resamples is not None:
                resamples[name] = measurement.resamples
            metrics[name] = asdict(replace(measurement, resamples=None))
            del metrics[name]["resamples"]
            # Paths are left out: a file's path does not identify its content, but the digest does.
            options = {k: v for k, v in choice.options.items() if not isinstance(v, Path)}
            metrics[name]["options"] = {k: plain(v) for k, v in options.items()}
    config = recipe.tables.evaluation
    terms = {term.name for term in evaluation.graph.terms}
    generated = recipe.tables.data.generated
    real = "real" if generated is None else generated.learned_from
    trained_on = {"classification": real, "pseudo_label": "generated"}
    content = {
        "step": step,
        "xraygan": __version__,
        "protocol": {
            "name": config.protocol,
            "dataset": recipe.choices["data"].part.name,
            "split": evaluation.split,
            "trained_on": " and ".join(v for k, v in trained_on.items() if k in terms),
            "label_policy": "single" if evaluation.task.exclusive else "multi",
            "classes": list(evaluation.classes),
            "images": len(evaluation.test),
            "patients": len(np.unique(evaluation.patients)),
            "generated": config.generated if "generator" in evaluation.graph.networks else 0,
            "reference": config.reference,
            "bootstrap": config.bootstrap,
            "unit": "patient",
            "confidence": CONFIDENCE,
        },
        "metrics": metrics,
    }
    if errors:
        content["failed"] = {name: failure(error) for name, error in errors.items()}
    return Evaluated(content, pd.DataFrame(resamples), errors)


def _compute(
    choice: PartConfig, evaluation: RunEvaluation, others: Mapping[str, Any]
) -> dict[str, Measurement]:
    """Compute one metric and check its measurements.

    Args:
        others: the figures of other metrics, whose names it must not use.
    """
    metric: Metric = build(choice)
    with plugin_errors(choice, "compute()"):
        bootstrap = evaluation.recipe.tables.evaluation.bootstrap
        measured = contracts.measurements(metric.compute(evaluation), bootstrap)
        if twice := sorted(measured.keys() & others):
            raise BadAnswer(
                f"measured {twice[0]!r}, which another metric of the recipe has measured"
            )
    return measured


def failure(error: Exception) -> str:
    """The reason why a metric failed, for a message and ``evaluation.json``."""
    return str(error) if isinstance(error, UserError) else describe_error(error)
