"""The loss terms of a training graph, and which networks learn from each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xraygan.errors import UserError
from xraygan.parts import contracts
from xraygan.parts.interfaces import Classifier, Labeler, Objective, Score
from xraygan.parts.part_config import PartConfig
from xraygan.recipe.loading import Recipe

from .step import TrainingStep


@dataclass(frozen=True)
class Term:
    """A function of the step, its weight, and the networks that learn from it.

    A term that trains no network is computed for the log alone.

    Attributes:
        trains: names of the networks that learn from it.
        choice: the part that computes it.
        method: the method of the part that is called, for messages.
    """

    name: str
    compute: Callable[[TrainingStep], Tensor]
    weight: float
    trains: frozenset[str]
    choice: PartConfig | None = None
    method: str = "forward()"


def network_terms(
    recipe: Recipe, networks: Mapping[str, Any], parts: Mapping[str, Any]
) -> list[Term]:
    """The networks' own losses: adversarial (Eqs. 1, 6) and classification (L_C of Eq. 11).

    Args:
        parts: the objective and the labeler, by their tables.
    """
    terms: list[Term] = []

    def add(
        name: str, compute: Callable[[TrainingStep], Tensor], weight: float, trains: Iterable[str],
        choice: PartConfig, method: str,
    ) -> None:  # fmt: skip
        if weight != 0:
            terms.append(Term(name, compute, weight, frozenset(trains), choice, method))

    if "objective" in recipe.choices:
        objective: Objective = parts["objective"]
        for name, loss in (
            ("generator", objective.generator_loss),
            ("discriminator", objective.discriminator_loss),
        ):
            weight, choice = recipe.network(name).config.weight, recipe.choices["objective"]
            add(name, loss, weight, [name], choice, f"{name}_loss()")
    if "classifier" in networks:
        classifier: Classifier = networks["classifier"]
        weight = recipe.network("classifier").config.weight
        add(
            "classification",
            lambda step: _losses(classifier, step.real_logits, step.labels).mean(),
            weight,
            ["classifier"],
            recipe.choices["classifier"],
            "losses()",
        )
    if "labeler" in recipe.choices:
        choice = recipe.choices["labeler"]
        labeler: Labeler = parts["labeler"]
        add(
            "pseudo_label",
            lambda step: _pseudo_label_loss(labeler, classifier, step),
            choice.config.weight,
            choice.config.trains,
            choice,
            "label()",
        )
    return terms


def score_terms(
    recipe: Recipe, scores: Mapping[str, Score], networks: Mapping[str, Any]
) -> list[Term]:
    """One term for each score.

    Raises:
        UserError: ``trains`` names a network that has no parameters to train.
    """
    terms = []
    for name, score in scores.items():
        choice = recipe.choices[f"scores.{name}"]
        own = (name,) if name in networks else ()
        chosen = choice.config.trains
        trains = frozenset((*score.trains, *own) if chosen is None else chosen)
        for network in sorted(trains - set(networks)):
            raise UserError(f"[scores.{name}] trains: {network!r} has no parameters to train")
        terms.append(Term(name, score, choice.config.weight, trains, choice))
    return terms


def _pseudo_label_loss(labeler: Labeler, classifier: Classifier, step: TrainingStep) -> Tensor:
    """Mean classification loss over the generated images that the labeler keeps; 0 if none."""
    pseudo_labels, logits = labeler.label(step), step.fake_logits
    labels, weights = contracts.labels(pseudo_labels, len(logits), step.task, logits.device)
    step.record("pseudo_label_kept", (weights > 0).float().mean())
    with step.plugin_errors("classifier", "losses()"):
        losses = _losses(classifier, logits, labels)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def _losses(classifier: Classifier, logits: Tensor, labels: Tensor) -> Tensor:
    return contracts.floating(classifier.losses(logits, labels), (len(logits),))
