"""Pseudo-labels of real, unlabelled images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Score, Step, Task, UserError
from xraygan.plugin_api import as_float32

from .labelers import Confidence


class UnlabelledPseudoLabel(Score):
    """Loss of the classifier on real, unlabelled images with their pseudo-labels

    (1/N) sum_i 1[max_k p_k(u_i) > t] L(x_i, argmax_k p_k(u_i)) over the N unlabelled images u_i of
    the batch, where L is the classifier's own loss (cross entropy) and x_i = u_i + noise. No
    gradient passes through the labels. Without noise it is Lee's pseudo-label and needs one pass.
    With noise the label is that of the clean image and the classifier learns it for the noisy one,
    as in FixMatch, which perturbs images more strongly. Findings are decided as by `labeler
    confidence`. The share of kept images is recorded as `unlabelled_pseudo_label_kept`.

    It needs `[data] unlabelled = true`, and `[data] limit`, the number of labelled images. In both
    passes batch normalization uses the statistics of its own batch, and its running statistics are
    not updated.

    Source: Lee (2013), "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
    Deep Neural Networks"; Sohn et al., arXiv:2001.07685.

    Args:
        threshold: t; 0.95 in FixMatch.
        noise: standard deviation of the Gaussian noise, where black is -1 and white 1; 0 for none.

    Raises:
        UserError: the recipe has no unlabelled images.
    """

    trains = ("classifier",)
    reads = ("classifier",)

    def __init__(
        self,
        task: Task,
        *,
        threshold: Annotated[float, Field(ge=0, lt=1)] = 0.75,
        noise: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        self.rule = Confidence(task, threshold=threshold)
        self.noise = noise

    def forward(self, step: Step) -> Tensor:
        images = step.unlabelled
        if images is None:
            raise UserError(
                "unlabelled_pseudo_label needs images without labels: set [data] unlabelled = true "
                "and [data] limit, the number of images of each class whose labels are used"
            )
        logits = as_float32(step.classify(self._add_noise(images, step))["logits"])
        clean_logits = logits.detach()
        if self.noise:
            with torch.no_grad():
                clean_logits = step.classify(images)["logits"]
        labels, kept = self.rule.decide(step.task.probabilities(clean_logits))
        step.record("unlabelled_pseudo_label_kept", kept.mean())
        # The mean of this rank; the mean over ranks is that of the batch.
        return (step.networks["classifier"].losses(logits, labels) * kept).mean()

    def _add_noise(self, images: Tensor, step: Step) -> Tensor:
        if not self.noise:
            return images
        noise = step.draw(
            lambda n: torch.randn(
                n, *images.shape[1:], generator=step.rng, device=images.device, dtype=images.dtype
            )
        )
        return images + self.noise * noise
