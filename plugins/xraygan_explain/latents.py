"""Interpolation between latents."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Spherical linear interpolation of two latents, along the great circle

    slerp(a, b; t) = sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, where w is the angle between a
    and b. A straight line would pass through latents that are shorter than those of the training.
    If a and b have equal or opposite directions, the great circle is not unique, and the
    interpolation is linear.

    Source: Shoemake, SIGGRAPH 1985; for latents White, arXiv:1609.04468.

    Args:
        start, end: a and b, ``(N, D)``.
        shares: t, ``(T,)``, in [0, 1].

    Returns:
        ``(N, T, D)``, in the precision of ``start``; a at t = 0 and b at t = 1.
    """
    a, b = start.double()[:, None], end.double()[:, None]
    t = shares.to(a)[None, :, None]
    cosine = torch.cosine_similarity(a, b, dim=2).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    sine = angle.sin()
    straight = sine < 1e-6
    sine = torch.where(straight, 1.0, sine)
    first = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    second = torch.where(straight, t, (t * angle).sin() / sine)
    return (first * a + second * b).to(start.dtype)
