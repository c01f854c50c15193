"""Maps that are upsampled on a GPU keep the type of the networks (bfloat16)."""

from __future__ import annotations

import torch
from pretended_gpu import GPU, pretended_gpu

from xraygan.plugin_api import doubled


def test_doubled_maps_keep_their_type_under_autocast() -> None:
    with pretended_gpu(), torch.autocast("cuda", dtype=torch.bfloat16):
        maps = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16, device=GPU)
        assert torch.nn.functional.interpolate(maps, scale_factor=2).dtype == torch.float32
        assert doubled(maps).dtype == torch.bfloat16


def test_each_value_is_there_four_times() -> None:
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(doubled(maps), maps.repeat_interleave(2, 2).repeat_interleave(2, 3))
