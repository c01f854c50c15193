"""An evaluation of made predictions, without networks or images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from xraygan import Task
from xraygan.evaluation.evaluation import RunEvaluation


class Measured(RunEvaluation):
    """A RunEvaluation whose arrays are given, not computed."""

    probs = fake_probs = fake_features = reference_features = None  # type: ignore[assignment]
    labels = patients = fake_images = reference_images = None  # type: ignore[assignment]
    validation = validation_probs = test = None  # type: ignore[assignment]

    def __init__(self, classes: tuple[str, ...], *, exclusive: bool = True, **arrays: object):
        self.task = Task(32, classes, exclusive)
        self.graph = SimpleNamespace(networks={"generator": None, "classifier": None})  # type: ignore[assignment]
        self._config = SimpleNamespace(  # type: ignore[assignment]
            bootstrap=200, generated=100, batch_size=4, reference="train"
        )
        run = SimpleNamespace(seed=0)
        tables = SimpleNamespace(run=run, data=SimpleNamespace(only=[]), evaluation=self._config)
        self.recipe = SimpleNamespace(tables=tables)  # type: ignore[assignment]
        self.device = torch.device("cpu")
        self._seed = 0
        self._extracted, self._digests = {}, {}
        for name, value in arrays.items():
            setattr(self, name, value)

    def network(self, *extractors: str) -> str:
        return " ".join(f"digest of {name}" for name in extractors)


def predictions(n: int = 300, k: int = 3, per_patient: int = 1) -> Measured:
    random = np.random.default_rng(0)
    truth = np.repeat(random.integers(k, size=-(-n // per_patient)), per_patient)[:n]
    logits = random.normal(size=(-(-n // per_patient), k)).repeat(per_patient, axis=0)[:n]
    logits[np.arange(n), truth] += 1
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    patients = np.array([f"p{i // per_patient}" for i in range(n)])
    labels = np.eye(k, dtype=np.uint8)[truth]
    return Measured(tuple("ABCDE"[:k]), labels=labels, probs=probs, patients=patients)
