"""Pseudo-labels (Sec. 4.2 of XRAY-GAN) and condition labels (Sec. 4.1)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from xraygan import Labeler, Task
from xraygan.step import Step


class Confidence(Labeler):
    """Pseudo-labels: the likeliest class, where its probability is above a threshold

    y = argmax_k p_k, kept if max_k p_k > t, with p what the run's classifier says of the generated
    image now. Where an image can have several findings, a finding counts as present above t and
    as absent below 1 - t, and an image is kept if all of its findings are decided.

    Source: Lee (2013); Sec. 4.2 of XRAY-GAN, whose best threshold is about 0.8 (Tab. 4).

    Args:
        threshold: t.
    """

    def __init__(
        self, task: Task, *, threshold: Annotated[float, Field(ge=0, lt=1)] = 0.75
    ) -> None:
        self.exclusive = task.exclusive
        self.threshold = threshold

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        probs = step.fake_probs.detach()
        if self.exclusive:
            top, labels = probs.max(dim=1)
            return labels, (top > self.threshold).float()
        decided = (probs > self.threshold) | (probs < 1 - self.threshold)
        return (probs > self.threshold).float(), decided.all(dim=1).float()


class Condition(Labeler):
    """The labels that a conditional generator was given

    Every generated image counts, with the label it was made for.

    Source: Sec. 4.1 and Tabs. 3 and 8 of XRAY-GAN.
    """

    needs_condition = True

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        return step.fake_labels, step.fake.new_ones(step.batch_size)
