"""Random numbers: each stream is a function of the run's seed and of its purpose.

No stream depends on numbers drawn before. So step k of a resumed run draws the same numbers as step
k of an uninterrupted run, and adding a network does not change the initial weights of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, for example ``derive_seed(0, "latent", step)``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """A random number generator on a device for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


def own_generator(device: torch.device) -> torch.Generator:
    """PyTorch's own generator of a device, from which layers such as dropout draw."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


@contextmanager
def global_stream(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed PyTorch's global generators for one purpose within this context, then restore them.

    Layers that draw from them (dropout) then draw the same numbers, whatever was drawn before.

    Args:
        device: its generator is seeded too, besides the processor's.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(own_generator(device))
    states = [generator.get_state() for generator in generators]
    for generator in generators:  # torch.manual_seed takes a hundred times as long
        generator.manual_seed(derive_seed(seed, *purpose))
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
