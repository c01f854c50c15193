"""Pseudo-labels (Sec. 4.2 of XRAY-GAN), and labels of the condition (Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Labeler, Task, UserError
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

    Every generated image counts, with the label it was made for, once the generator has learned to
    make it.

    Source: Sec. 4.1 and Tabs. 3 and 8 of XRAY-GAN.

    Args:
        start: share of the run before which no generated image counts.
    """

    needs_condition = True

    def __init__(self, *, start: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        self.start = start

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        counts = float(step.progress >= self.start)
        return step.fake_labels, step.fake.new_full((step.batch_size,), counts)


def missing(counts: Sequence[int]) -> tuple[int, ...]:
    """How many images each class lacks to have as many as the largest.

    A class without any image has taught its generator nothing and is not filled up: it lacks 0.
    """
    return tuple(max(counts) - count if count else 0 for count in counts)


class FillUp(Labeler):
    """The condition's labels, weighted by how many images each class lacks to the largest

    Of K classes with c_k training images, N in all, the largest with M, a balanced set has the N
    real images and M - c_k generated ones of each class: K M in all. Generated images come as
    often of each class; one of class k has the weight M - c_k, so the weighted mean of their losses
    estimates the mean over the generated part. That mean has no size of its own, so the parts'
    sizes are the recipe's weights: [classifier] weight = N / (K M), [labeler] weight =
    (K M - N) / (K M). With them the sum of both losses estimates the mean loss of the balanced set.
    The second is recorded as `fill_up_share`, to be compared with the recipe's.

    The estimate is a ratio, biased by the order of 1 / (images in a batch), and not at all where
    all classes that lack images lack as many. Classes without training images do not count for K.
    Weights are equal while the counts are not known.

    Source: Salehinejad et al., "Synthesizing Chest X-Ray Pathology for Training Deep Convolutional
    Neural Networks", IEEE TMI (2018), who add such images before training.

    Raises:
        UserError: the classes do not exclude each other.
    """

    needs_condition = True

    def __init__(self, task: Task) -> None:
        if not task.exclusive:
            raise UserError('fill_up needs exclusive classes, but [data] label_policy is "multi"')
        self.weights = torch.ones(len(task.classes))
        self.share: Tensor | None = None
        if task.counts is not None:
            self.weights = torch.tensor(missing(task.counts), dtype=torch.float32)
            generated = self.weights.double().sum()
            self.share = generated / (generated + sum(task.counts))

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        labels = step.fake_labels
        if self.share is not None:
            step.record("fill_up_share", self.share)
        return labels, self.weights.to(labels.device)[labels]
