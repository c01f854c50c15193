"""Large maps keep their memory format on the way back: a batch norm on a processor takes 25 times
as long for a gradient in another format than its input's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped_recipes import on_the_phantom
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xraygan.recipe.files import shipped
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

#: pixels of a map; the gradient of a mean over smaller maps, the last of a network, is in planes
SMALL = 64


class Formats(TorchDispatchMode):
    """Counts the batch norms whose gradient has another memory format than their input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.differing: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in ("aten::native_batch_norm_backward", "aten::batch_norm_backward"):
            self._compare(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _compare(self, gradient: Tensor, maps: Tensor) -> None:
        if maps.dim() == 4 and maps.shape[2:].numel() > SMALL:
            self.seen += 1
            if not any(
                gradient.is_contiguous(memory_format=order)
                and maps.is_contiguous(memory_format=order)
                for order in (torch.channels_last, torch.contiguous_format)
            ):
                self.differing[tuple(maps.shape)] += 1


@pytest.mark.parametrize(
    "name", [n if n == "quickstart" else pytest.param(n, marks=pytest.mark.slow) for n in shipped()]
)
def test_gradients_keep_the_memory_format_of_maps(name: str, tmp_path: Path) -> None:
    recipe = on_the_phantom(name, tmp_path / "cache", "run.device=cpu")
    silent = Display(quiet=True)
    trainer = Trainer(Session.of(recipe, silent), RunDirectory(tmp_path / "run"), silent)
    with Formats() as formats:
        trainer.step(0)
    assert formats.seen or name == "linear_probe", "no gradient of a batch norm was seen"
    assert not formats.differing
