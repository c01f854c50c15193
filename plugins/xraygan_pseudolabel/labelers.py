"""Pseudo-labels (Sec. 4.2 of XRAY-GAN), and conditions as labels (Sec. 4.1)."""

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
    """The base of pseudo-labels: the likeliest outcome, for images with a certain decision.

    With exclusive classes an image needs one decision between K classes. With findings it needs K
    decisions, each between present and absent, and an image is kept if all are certain.
    """

    def __init__(self, task: Task) -> None:
        self.exclusive = task.exclusive

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.decide(self.probabilities(step))

    def probabilities(self, step: Step) -> Tensor:
        """The classifier's probabilities ``(N, K)`` for the generated images, without gradient."""
        return step.fake_probs.detach()

    def decide(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and weights (1 if kept, else 0) for probabilities ``(N, K)``."""
        if self.exclusive:
            return probs.argmax(dim=1), self.certain(probs).float()
        outcomes = torch.stack([probs, 1 - probs], dim=2)
        return (probs > 0.5).float(), self.certain(outcomes).all(dim=1).float()

    @abstractmethod
    def certain(self, outcomes: Tensor) -> Tensor:
        """Which decisions are certain, ``(...)`` bool, by the probabilities ``(..., C)`` of their
        C outcomes."""


class Confidence(PseudoLabeler):
    """Pseudo-labels: the likeliest class, if its probability is above a threshold

    y = argmax_k p_k, kept if max_k p_k > t, where p are the probabilities of the run's classifier
    in this step. For findings, each finding is present above t and absent below 1 - t (if t < 0.5
    allows both, the likelier), and an image is kept if all its findings are decided.

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
    """Pseudo-labels by the mean teacher, the average of the classifier's weights

    y = argmax_k p_k, kept if max_k p_k > t, where p are the probabilities of the averaged
    classifier. These labels change less from step to step than those of the classifier, and do not
    confirm its latest mistakes. The average is the one of [classifier] average, which must be set.
    Findings are decided as by `confidence`.

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
    """Pseudo-labels: the likeliest class, if it leads the second by a margin

    y = argmax_k p_k, kept if p_(1) - p_(2) > m, with p_(1) and p_(2) the two largest probabilities.
    For findings, the margin of each is |2 p_k - 1|, and an image is kept if all margins are above
    m.

    Source: the margin of Scheffer, Decomain and Wrobel (2001), "Active Hidden Markov Models for
    Information Extraction", who request labels for images with a small margin.

    Args:
        margin: m.
    """

    def __init__(self, task: Task, *, margin: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> None:
        super().__init__(task)
        self.margin = margin

    def certain(self, outcomes: Tensor) -> Tensor:
        first, index = outcomes.max(dim=-1, keepdim=True)
        second = outcomes.scatter(-1, index, 0.0).amax(dim=-1)  # 0 if there is only one class
        return first.squeeze(-1) - second > self.margin


class Entropy(PseudoLabeler):
    """Pseudo-labels: the likeliest class, if the entropy of the prediction is below a threshold

    y = argmax_k p_k, kept if H(p) / log K < t, with H(p) = -sum_k p_k log p_k. H(p) / log K is 0
    for a certain prediction and 1 for a uniform one. For findings, the entropy of each is that of
    present and absent (K = 2), and an image is kept if all are below t.

    Source: Saporta et al., arXiv:2006.08658.

    Args:
        threshold: t.
    """

    def __init__(self, task: Task, *, threshold: Annotated[float, Field(gt=0, le=1)] = 0.5) -> None:
        super().__init__(task)
        self.threshold = threshold

    def certain(self, outcomes: Tensor) -> Tensor:
        maximum = math.log(max(outcomes.shape[-1], 2))  # the entropy of a single class is 0
        return torch.special.entr(outcomes).sum(dim=-1) < self.threshold * maximum


class ClassAdaptive(Labeler):
    """Pseudo-labels: the most certain share of the images of each predicted class

    y = argmax_k p_k. Of the n_k images of the batch whose predicted class is k, the ceil(s n_k)
    with the largest p_k are kept if p_k > f, and images that tie with one of them too. So a class
    with uncertain predictions keeps as large a share of its images as an easy one, while a common
    threshold would keep none of them.

    Zou et al. determine the threshold of each class over all images, and label by p_k over that
    threshold. Here the shares are of the batch, so that no state is carried from step to step, and
    the labels are the likeliest classes.

    Source: class-balanced self-training, Zou et al., arXiv:1810.07911, whose s rises from 0.2 to
    0.5.

    Args:
        share: s.
        floor: f; with 0.5 or more a kept class is likelier than all others together.

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
        # An image is kept if less than the share of its class's images are more certain than it.
        same_class = labels[:, None] == labels
        more_certain = (same_class & (top > top[:, None])).sum(dim=1)
        kept = (more_certain / same_class.sum(dim=1) < self.share) & (top > self.floor)
        return labels, kept.float()


class Condition(Labeler):
    """Labels of generated images: the conditions of a conditional generator

    Every generated image counts, with the label that it was generated for. Let the images count
    only after a part of the run (`start`), when the generator has learned to make them.

    Source: Sec. 4.1 and Tabs. 3 and 8 of XRAY-GAN.

    Args:
        start: share of the run, in [0, 1), before which no generated image counts.
    """

    needs_condition = True

    def __init__(self, *, start: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        self.start = start

    def label(self, step: Step) -> tuple[Tensor, Tensor]:
        counts = (step.elapsed >= self.start).to(step.fake.dtype)
        return step.fake_labels, counts.expand(step.batch_size)


def missing(counts: Sequence[int]) -> tuple[int, ...]:
    """The number of images that each class lacks to be as large as the largest class.

    A class without training images lacks 0: the generator has not learned it, so its generated
    images must not fill it up.
    """
    return tuple(max(counts) - count if count else 0 for count in counts)


class FillUp(Labeler):
    """Conditions as labels, with weights that balance the classes

    With c_k training images of class k, N in all, and M in the largest of K classes, a balanced set
    has the N real images and M - c_k generated images of each class: K M images in all. The batch
    has generated images of all classes equally often, so an image of class k has the weight
    M - c_k, and the weighted mean of the losses estimates the mean over the generated part of the
    balanced set. The sizes of the real and the generated part are weights of the recipe:
    [classifier] weight = N / (K M), [labeler] weight = (K M - N) / (K M). With these the sum of
    both losses estimates the mean loss of the balanced set. The second is recorded as
    `fill_up_share`, to compare it with the recipe's weight.

    The estimate is a ratio, so its bias is of the order of 1 / (images in a batch); it is unbiased
    if all classes that lack images lack the same number. Classes without training images do not
    count in K. The weights are equal if the counts are unknown.

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
        self.weights = self.weights.to(labels.device)  # once: a GPU is waited for
        return labels, self.weights[labels]
