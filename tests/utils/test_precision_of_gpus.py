"""The number format that ``precision = "auto"`` chooses for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from xraygan.utils.precision import choose_precision


@pytest.fixture(autouse=True)
def _modes_restored() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    ("capability", "bf16"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_auto_takes_bf16_where_the_card_computes_in_it(
    capability: tuple[int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:  # as PyTorch answers
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    autocast = choose_precision("auto", torch.device("cuda", 0))
    assert (autocast is not nullcontext) == bf16


def test_auto_is_float32_on_processors() -> None:
    assert choose_precision("auto", torch.device("cpu")) is nullcontext
