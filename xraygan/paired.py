"""What two runs measured on the same patients, less each other, patient by patient."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import pandas as pd

from .runfiles import RunFiles


class Difference(NamedTuple):
    """A value less another run's, with the percentile interval over shared resamples."""

    value: float
    low: float
    high: float


class Resampled:
    """A run's metrics in each bootstrap resample of its test patients.

    Runs that were tested on the same images share the resamples, whatever their seeds, so that the
    difference of two metrics can be taken in each of them.
    """

    def __init__(self, run: RunFiles) -> None:
        self._metrics = run.evaluation.get("metrics", {})
        self._confidence = run.evaluation.get("protocol", {}).get("confidence", 0.95)
        self._values = run.optional("bootstrap.csv", _numbers) or {}
        self._tested = run.optional("predictions.csv", _patients)

    def less(self, base: Resampled, name: str) -> Difference | None:
        """A metric less that of another run; None where the two cannot be paired."""
        if not self._tested or self._tested != base._tested or self._confidence != base._confidence:
            return None
        ours, theirs = (side._values.get(name, np.empty(0)) for side in (self, base))
        values = [side._metrics.get(name, {}).get("value") for side in (self, base)]
        if len(ours) != len(theirs) or not all(isinstance(v, int | float) for v in values):
            return None
        gaps = ours - theirs
        gaps = gaps[np.isfinite(gaps)]
        if not len(gaps):
            return None
        tail = (1 - self._confidence) / 2
        low, high = np.quantile(gaps, [tail, 1 - tail])
        return Difference(values[0] - values[1], float(low), float(high))


def _numbers(text: str) -> dict[str, np.ndarray]:
    table = pd.read_csv(io.StringIO(text))
    return {name: table[name].to_numpy(float) for name in table}


def _patients(text: str) -> list[str]:
    table = pd.read_csv(io.StringIO(text), dtype=str)
    if "patient" not in table:
        raise ValueError("no column 'patient'")
    return list(table["patient"])
