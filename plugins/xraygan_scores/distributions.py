"""Scores of the classifier's class distributions for the real and the generated batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from xraygan import Score, Step


def mean_kl_to_marginal(logits: Tensor, marginal_scale: float = 1.0) -> Tensor:
    """E_i[KL(p_i || q)] with q the mean of the rows p_i, in nats (the logarithm of Eq. 3).

    Args:
        logits: ``(N, K)``; p_i is the softmax of row i.
        marginal_scale: a factor on q.

    Returns:
        Scalar in [0, log K] (minus the logarithm of ``marginal_scale``).
    """
    # In float64: log_p - log_q of nearly equal rows cancels, and float32 would keep no digit.
    log_p = logits.double().log_softmax(dim=1)
    # In the log domain, so that a class without any image contributes 0 and not 0 * -inf.
    log_q = torch.logsumexp(log_p, dim=0) + math.log(marginal_scale / len(logits))
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean().to(logits.dtype)


class InceptionScoreLoss(Score):
    """Inception Score without its exponential, by the run's classifier (Eq. 7)

    L_IS = E_z[KL(p(y|G(z)) || q(y))] = H(q) - E_z[H(p(y|G(z)))], where q is the mean prediction
    over the generated batch. It is large if each image is clearly of one class and the batch has
    images of all classes, so its weight is negative (the paper's alpha is -0.25). In [0, log K]
    nats.

    Source: Eq. 7 of XRAY-GAN; Salimans et al., arXiv:1606.03498.

    Args:
        formula: "paper", or "released" for the authors' scripts, whose marginal counts every image
            twice: the value is lower by log 2, and the gradient is the same.
    """

    exclusive_only = True

    def __init__(self, *, formula: Literal["paper", "released"] = "paper") -> None:
        super().__init__()
        self.marginal_scale = 2.0 if formula == "released" else 1.0

    def forward(self, step: Step) -> Tensor:
        return mean_kl_to_marginal(step.fake_logits, self.marginal_scale)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances ``(N, M)`` between the rows of ``(N, D)`` and ``(M, D)``.

    Computed from the differences, because the faster |x|^2 - 2xy + |y|^2 loses small distances to
    cancellation, and probability vectors are close to each other. In float64, because the kernels
    of small distances are nearly 1 and cancel too.
    """
    return (x.double()[:, None] - y.double()[None]).square().sum(dim=2)


def mmd_u(x: Tensor, y: Tensor) -> Tensor:
    """Squared MMD with k(a, b) = exp(-|a - b|^2), from two samples of the same size (Eq. 8).

    The mean of k(x_i, x_j) - 2 k(x_i, y_j) + k(y_i, y_j) over all ordered pairs i != j: an unbiased
    U-statistic, so it can be negative. Eq. 8 divides by N(N-1)/2, the number of unordered pairs,
    which gives the same three means, those of Eq. 5.

    Args:
        x, y: ``(N, D)``.

    Returns:
        Scalar; 0 if N < 2, because there are no pairs.
    """
    n = len(x)
    if n < 2:
        return (x.sum() + y.sum()) * 0.0
    kernel = (
        torch.exp(-squared_distances(x, x))
        - 2 * torch.exp(-squared_distances(x, y))
        + torch.exp(-squared_distances(y, y))
    )
    return ((kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))).to(x.dtype)


def mmd_released(x: Tensor, y: Tensor) -> Tensor:
    """The MMD of the authors' scripts.

    The kernel's bandwidth is the mean squared distance between real rows, the diagonals are
    included, and the result is the square root, or 0 if the square is below 1e-6.
    """
    distances = squared_distances(x, x)
    bandwidth = distances.mean().clamp(min=1e-12)
    squared = (
        torch.exp(-distances / bandwidth)
        - 2 * torch.exp(-squared_distances(x, y) / bandwidth)
        + torch.exp(-squared_distances(y, y) / bandwidth)
    ).mean()
    # The clamp keeps the root's gradient finite where the result is 0: 0 * infinity is NaN.
    return torch.where(squared > 1e-6, squared.clamp(min=1e-6).sqrt(), squared * 0.0).to(x.dtype)


class MMD(Score):
    """Maximum mean discrepancy (MMD) between real and generated class distributions (Eq. 8)

    The samples are the classifier's probability vectors of the real and of the generated images;
    the kernel is k(x, x') = exp(-|x - x'|^2). Its expectation is 0 if the probability vectors of
    both have the same distribution.

    Source: Eqs. 5 and 8 of XRAY-GAN; Gretton et al. (2012).

    Args:
        formula: "paper" for the U-statistic over i != j; "released" for the authors' scripts:
            the bandwidth is the mean squared distance between real rows, the diagonals are
            included, and the loss is the square root, or 0 if the square is below 1e-6.
    """

    def __init__(self, *, formula: Literal["paper", "released"] = "paper") -> None:
        super().__init__()
        self.discrepancy = mmd_released if formula == "released" else mmd_u

    def forward(self, step: Step) -> Tensor:
        return self.discrepancy(step.real_probs, step.fake_probs)
