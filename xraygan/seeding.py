"""Random numbers: each stream is a function of the run's seed and of what it is for.

Nothing depends on how many numbers were drawn before, so step k of a resumed run draws what step k
of an uninterrupted run draws, and adding one network leaves the others' initial weights alone.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, for example ``derive_seed(0, "latent", step)``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """A random number generator on a device for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))
