"""Pseudo-labels (Sec. 4.2 of XRAY-GAN), and labels of the condition (Sec. 4.1)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from xraygan import Labeler, Step, Task, UserError
from xraygan.plugin_api import as_float32


class PseudoLabeler(Labeler):
    """The likeliest outcome of each decision, for images of which every decision is certain.

    An image is one decision between K classes; where it can have several findings it is K, each
    between present and absent.
    """

    def __init__(self, task: Task) -> None:
        self.exclusive = task.exclusive

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.decide(self.probabilities(step))

    def probabilities(self, step: Step) -> Tensor:
        """``(N, K)``, without gradient: what the classifier says of the generated images."""
        return step.fake_probs.detach()

    def decide(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and weights of images with these probabilities ``(N, K)``."""
        if self.exclusive:
            return probs.argmax(dim=1), self.certain(probs).float()
        outcomes = torch.stack([probs, 1 - probs], dim=2)
        return (probs > 0.5).float(), self.certain(outcomes).all(dim=1).float()

    @abstractmethod
    def certain(self, outcomes: Tensor) -> Tensor:
        """Which decisions are certain, ``(...)`` bool, of their outcomes' probabilities
        ``(..., C)``."""


class Confidence(PseudoLabeler):
    """Pseudo-labels: the likeliest class, where its probability is above a threshold

    y = argmax_k p_k, kept if max_k p_k > t, with p what the run's classifier says of the generated
    image now. Where an image can have several findings, a finding counts as present above t and
    as absent below 1 - t (as the likelier, where t < 0.5 lets it be both), and an image is kept if
    all of its findings are decided.

    Source: Lee (2013); Sec. 4.2 of XRAY-GAN, whose best threshold is about 0.8 (Tab. 4).

    Args:
        threshold: t.
    """

    def __init__(
        self, task: Task, *, threshold: Annotated[float, Field(ge=0, lt=1)] = 0.75
    ) -> None:
        super().__init__(task)
        self.threshold = threshold

    def certain(self, outcomes: Tensor) -> Tensor:
        return outcomes.amax(dim=-1) > self.threshold


class Teacher(Confidence):
    """Pseudo-labels by the average of the classifier's weights, the mean teacher

    y = argmax_k p_k, kept if max_k p_k > t, with p what the average says of the generated image:
    labels that change less from step to step than the classifier's own, and that its last mistakes
    do not confirm. The average is [classifier] average, which must be set. Several findings are
    decided as by `confidence`.

    Source: Tarvainen and Valpola, arXiv:1703.01780; for hard labels above a threshold Liu et al.,
    arXiv:2102.09480.

    Args:
        threshold: t.
    """

    averages = ("classifier",)

    @torch.no_grad()
    def probabilities(self, step: Step) -> Tensor:
        logits = step.classify(step.fake, lambda: step.fake_metadata, averaged=True)["logits"]
        return step.task.probabilities(step.gather(as_float32(logits)))


class Margin(PseudoLabeler):
    """Pseudo-labels: the likeliest class, where it leads the second by a margin

    y = argmax_k p_k, kept if p_(1) - p_(2) > m, with p_(1) and p_(2) the two largest probabilities.
    Where an image can have several findings, each leads with |2 p_k - 1|, and an image is kept if
    all of them do.

    Source: the margin of Scheffer, Decomain and Wrobel (2001), "Active Hidden Markov Models for
    Information Extraction", who ask for labels where it is small.

    Args:
        margin: m.
    """

    def __init__(self, task: Task, *, margin: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> None:
        super().__init__(task)
        self.margin = margin

    def certain(self, outcomes: Tensor) -> Tensor:
        first, place = outcomes.max(dim=-1, keepdim=True)
        second = outcomes.scatter(-1, place, 0.0).amax(dim=-1)  # 0 where there is one class alone
        return first.squeeze(-1) - second > self.margin


class Entropy(PseudoLabeler):
    """Pseudo-labels: the likeliest class, where the entropy of all is below a threshold

    y = argmax_k p_k, kept if H(p) / log K < t, with H(p) = -sum_k p_k log p_k: 0 for a classifier
    that is certain, 1 for one that knows nothing. Where an image can have several findings, the
    entropy of each is that of present and absent (K = 2), and an image is kept if all are below t.

    Source: Saporta et al., arXiv:2006.08658.

    Args:
        threshold: t.
    """

    def __init__(self, task: Task, *, threshold: Annotated[float, Field(gt=0, le=1)] = 0.5) -> None:
        super().__init__(task)
        self.threshold = threshold

    def certain(self, outcomes: Tensor) -> Tensor:
        most = math.log(max(outcomes.shape[-1], 2))  # of one class alone the entropy is 0
        return torch.special.entr(outcomes).sum(dim=-1) < self.threshold * most


class ClassAdaptive(Labeler):
    """Pseudo-labels: of each predicted class the share of the batch that is most certain

    y = argmax_k p_k. Of the n_k images of the batch that are predicted to be of class k, the
    ceil(s n_k) with the largest p_k are kept, those that tie with one of them too, if p_k > f. A
    class that the classifier is seldom sure of keeps as large a share of its images as an easy one,
    where a threshold for all would keep none.

    Zou et al. take each class's threshold over all images, and label by p_k over its threshold;
    here both are of the batch, so that no state is carried from step to step, and the labels are
    the likeliest classes.

    Source: class-balanced self-training, Zou et al., arXiv:1810.07911, whose s rises from 0.2 to
    0.5.

    Args:
        share: s.
        floor: f; from 0.5 on a class is likelier than all others together.

    Raises:
        UserError: the classes do not exclude each other.
    """

    def __init__(
        self,
        task: Task,
        *,
        share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        floor: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ) -> None:
        if not task.exclusive:
            raise UserError(
                'class_adaptive needs exclusive classes, but [data] label_policy is "multi"'
            )
        self.share = share
        self.floor = floor

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        top, labels = step.fake_probs.detach().max(dim=1)
        alike = labels[:, None] == labels
        surer = (alike & (top > top[:, None])).sum(dim=1)  # images of the class before each
        kept = (surer / alike.sum(dim=1) < self.share) & (top > self.floor)
        return labels, kept.float()


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
