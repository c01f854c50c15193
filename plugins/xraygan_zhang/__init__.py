"""The Zhang Lab's paediatric chest X-rays: normal or pneumonia."""

from __future__ import annotations

from collections.abc import Callable

from xraygan import hookimpl


@hookimpl
def xraygan_register_datasets(register: Callable[[str, str], None]) -> None:
    register("zhang", "xraygan_zhang.dataset:Zhang")
