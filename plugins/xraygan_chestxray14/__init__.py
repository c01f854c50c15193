"""NIH ChestX-ray14: 112,120 frontal chest X-rays with fourteen findings."""

from __future__ import annotations

from collections.abc import Callable

from xraygan import hookimpl


@hookimpl
def xraygan_register_datasets(register: Callable[[str, str], None]) -> None:
    register("chestxray14", "xraygan_chestxray14.dataset:ChestXray14")
