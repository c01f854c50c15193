"""Helpers of a step for its passes through networks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from torch import nn


def key_words(key: Hashable) -> Iterator[str]:
    """The parts of a key that are the same in every process."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, tuple):
            yield from key_words(part)
        elif isinstance(part, str | int | float):
            yield str(part)


def is_compiled(network: nn.Module) -> bool:
    return getattr(network, "_compiled_call_impl", None) is not None


@contextmanager
def keep_running_statistics(network: nn.Module) -> Iterator[None]:
    """Within it, batch norms normalize by the batch but their running statistics stay."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
