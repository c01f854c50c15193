"""Your own images, with one CSV table of paths, labels, patients and splits."""

from __future__ import annotations

from collections.abc import Callable

from xraygan import hookimpl


@hookimpl
def xraygan_register_datasets(register: Callable[[str, str], None]) -> None:
    register("csv", "xraygan_csv.dataset:Csv")
