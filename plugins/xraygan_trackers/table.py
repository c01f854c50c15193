"""The CSV tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from xraygan import Tracker
from xraygan.plugin_api import read_number_table, write_table


class CSV(Tracker):
    """A CSV table of the logged numbers: one row for each step, one column for each number

    Written to ``metrics.csv`` in the run directory: ``step``, then every term, every number that
    the parts recorded, and ``evaluation/NAME`` for metrics that are measured during training. A
    cell is empty if the step has no value.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "metrics.csv"
        self.columns = ["step"]

    def begin(self, step: int) -> None:
        rows = pd.DataFrame({"step": []}, dtype=int)
        if step and self.path.is_file():
            rows = self._read()
            rows = rows[rows["step"] <= step]
        self._write(rows)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if new := [name for name in values if name not in self.columns]:
            # A term of a later phase of the schedule: the file is rewritten, a few times in a run.
            rows = self._read()
            self._write(rows.reindex(columns=[*self.columns, *new]))
        row = pd.DataFrame([{"step": step, **values}], columns=self.columns)
        row.to_csv(self.path, mode="a", header=False, index=False)

    def _read(self) -> pd.DataFrame:
        remedy = "delete it, and the rows of the steps to come are kept"
        return read_number_table(self.path, remedy, whole="step")

    def _write(self, rows: pd.DataFrame) -> None:
        self.columns = list(rows.columns)
        write_table(self.path, rows)
