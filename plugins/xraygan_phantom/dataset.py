"""The phantom dataset: virtual patients, each with up to four radiographs."""

from __future__ import annotations

import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from xraygan import Dataset, UserError

from .anatomy import Patient, render
from .findings import FINDINGS

#: version of the renderer, increased whenever the pixels of a patient change
RENDERER = 1
NO_FINDING = "No Finding"
MAX_VISITS = 4


class Phantom(Dataset):
    """Procedural chest radiographs with the 14 findings of ChestX-ray14, at any size

    Lungs, ribs, spine, heart, diaphragm and vessels are added as X-ray attenuation and passed
    through a film curve; each finding is drawn with its radiographic sign. Virtual patients differ
    in age, sex, habitus and anatomy. A patient has one to four radiographs, all in one split. The
    same options always give the same pixels, in any order. Use it if no data has been downloaded,
    and for tests, since the truth is known. It has no medical meaning.

    Args:
        images: number of radiographs.
        seed: seed of the radiographs, independent of the run's seed.
        test_fraction: approximate share of the patients in the test split.
        findings: the classes to draw, each about equally often; empty for all 15.
        multiple: share of the abnormal radiographs that have a second finding.
    """

    classes = (NO_FINDING, *FINDINGS)
    licence = "none is needed, they are procedural"

    def __init__(
        self,
        root: Path | None,
        *,
        images: Annotated[int, Field(gt=0, le=1_000_000)] = 2000,
        seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
        test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25,
        findings: tuple[str, ...] = (),
        multiple: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ) -> None:
        for name in findings:
            if name not in self.classes:
                raise UserError(
                    f"findings: no finding is named {name!r}; " + ", ".join(self.classes)
                )
        self.images = images
        self.seed = seed
        self.test_fraction = test_fraction
        self.findings = findings or self.classes
        self.multiple = multiple

    @cached_property
    def _rows(self) -> dict[str, tuple[int, int, tuple[str, ...]]]:
        """path -> (patient, visit, labels), in order."""
        random = np.random.default_rng([self.seed, 0])
        rows: dict[str, tuple[int, int, tuple[str, ...]]] = {}
        patient = 0
        while len(rows) < self.images:
            for visit in range(int(random.integers(1, MAX_VISITS + 1))):
                labels = self._labels(len(rows), random)
                if len(rows) < self.images:
                    rows[f"phantom/{len(rows):06d}.png"] = (patient, visit, labels)
            patient += 1
        return rows

    def _labels(self, row: int, random: np.random.Generator) -> tuple[str, ...]:
        """Draw the labels of a row: the classes in turn, and sometimes a second finding."""
        first = self.findings[row % len(self.findings)]
        others = [f for f in self.findings if f not in (first, NO_FINDING)]
        two = random.random() < self.multiple
        second = others[int(random.integers(len(others)))] if others else None
        return (first, second) if two and second and first != NO_FINDING else (first,)

    def index(self) -> pd.DataFrame:
        rows = []
        for path, (number, _, labels) in self._rows.items():
            patient = Patient.draw(self.seed, number)
            split = "test" if self._share(number) < self.test_fraction else "train"
            rows.append(
                {
                    "path": path,
                    "labels": labels,
                    "patient": f"{number:06d}",
                    "split": split,
                    "age": float(patient.age),
                    "sex": patient.sex,
                    "view": patient.view,
                }
            )
        return pd.DataFrame(rows)

    def _share(self, patient: int) -> float:
        """A pseudorandom number in [0, 1) that depends on the patient and the seed only."""
        return zlib.crc32(f"{self.seed}/{patient}".encode()) / 2**32

    def load(self, path: str, size: int) -> np.ndarray:
        patient, visit, labels = self._rows[path]
        findings = tuple(label for label in labels if label != NO_FINDING)
        return render(Patient.draw(self.seed, patient), visit, findings, size)

    def identity(self, path: str) -> str:
        patient, visit, labels = self._rows[path]
        return f"{RENDERER}/{self.seed}/{patient}/{visit}/{'+'.join(labels)}"
