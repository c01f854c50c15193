"""Pseudo-labels of real images whose labels are not used."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Score, Step, Task, UserError
from xraygan.plugin_api import as_float32

from .labelers import Confidence


class UnlabelledPseudoLabel(Score):
    """Cross entropy of real images without labels against what the classifier says of them

    (1/N) sum_i 1[max_k p_k(u_i) > t] L(x_i, argmax_k p_k(u_i)) over the batch's N unlabelled
    images u_i, with L the classifier's own loss (cross entropy) and x_i = u_i + noise. Nothing is
    learned through the label. With no noise it is Lee's pseudo-label, by one pass; with noise the
    label is that of the image as it is, and the classifier learns it for the disturbed one, as in
    FixMatch, whose disturbances are stronger. Several findings are decided as by `labeler
    confidence`. The share of images that are kept is recorded as `unlabelled_pseudo_label_kept`.

    It needs `[data] unlabelled = true`, and `[data] limit`, beyond which images have no label. Both
    passes normalize by their own batch, and the running statistics do not follow them.

    Source: Lee (2013), "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
    Deep Neural Networks"; Sohn et al., arXiv:2001.07685.

    Args:
        threshold: t; 0.95 in FixMatch.
        noise: standard deviation of the Gaussian noise, where black is -1 and white 1; 0 for none.

    Raises:
        UserError: the recipe gives no images without labels.
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
        logits = as_float32(step.classify(self._disturbed(images, step))["logits"])
        said = logits.detach()
        if self.noise:
            with torch.no_grad():
                said = step.classify(images)["logits"]
        labels, kept = self.rule.decide(step.task.probabilities(said))
        step.record("unlabelled_pseudo_label_kept", kept.mean())
        # This rank's mean; the mean of all ranks' is that of the batch.
        return (step.networks["classifier"].losses(logits, labels) * kept).mean()

    def _disturbed(self, images: Tensor, step: Step) -> Tensor:
        if not self.noise:
            return images
        drawn = step.draw(
            lambda n: torch.randn(
                n, *images.shape[1:], generator=step.rng, device=images.device, dtype=images.dtype
            )
        )
        return images + self.noise * drawn
