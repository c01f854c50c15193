"""A recipe's parts built and assembled into a training graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from xraygan.distributed.ranks import Ranks, synchronise
from xraygan.errors import RecipeError, UserError
from xraygan.parts import contracts as answers
from xraygan.parts.building import build, from_random
from xraygan.parts.choice import Choice
from xraygan.parts.interfaces import Classifier, Extractor, Labeler, Objective, Score, Task
from xraygan.recipe import schema
from xraygan.recipe.loading import Recipe
from xraygan.utils.limits import MOST_PARAMETERS, parse_step
from xraygan.utils.planning import Blocked

from .graph import MODELS, Term, TrainingGraph, flattened, state_of, trained_parameters
from .step import Step

_log = logging.getLogger(__name__)


def assemble(
    recipe: Recipe,
    task: Task,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    ranks: Ranks | None = None,
    *,
    weights: bool = True,
    extractors: bool = True,
) -> TrainingGraph:
    """Build what a recipe describes.

    Initial weights depend on the recipe's seed and on the network's own name, nothing else.

    Args:
        weights: read the weights that networks start from; False where a checkpoint has theirs.
        extractors: build the networks that scores read; False where nothing is trained or measured.

    Raises:
        UserError: a part refused its options or could not be built; the message names its table.
    """
    seed = recipe.tables.run.seed
    networks: dict[str, nn.Module] = {}
    terms: list[Term] = []
    for name in MODELS:
        if name in recipe.choices:
            choice = recipe.choices[name]
            networks[name] = build(choice if weights else from_random(choice), task, seed=seed)
    read_by_scores: dict[str, Extractor] = {}
    scores: dict[str, Score] = {}
    for name, choice in recipe.chosen("scores").items():
        if choice.words.weight != 0:
            scores[name] = build(choice, task, seed=seed)
            if trained_parameters(scores[name]):
                networks[name] = scores[name]
            read = choice.options.get("extractor")
            if extractors and read and read not in read_by_scores:
                read_by_scores[read] = build_extractor(recipe, read, task)
    parts: dict[str, Any] = {f"scores.{name}": score for name, score in scores.items()}
    for name, given in (("objective", ()), ("labeler", (task,))):
        if name in recipe.choices:
            parts[name] = build(recipe.choices[name], *given)
    states = {table: part for table, part in parts.items() if _has_state(part)}
    terms = [*_own_terms(recipe, networks, parts), *_score_terms(recipe, scores, networks)]
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    for module in (*networks.values(), *read_by_scores.values(), *modules):
        if ranks:
            synchronise(module, ranks)
        module.to(memory_format=_memory_order(module, torch.device(device))).to(device)
    trained = frozenset().union(*(term.trains for term in terms)) if terms else frozenset()
    optimizers = {
        name: _optimizer(recipe.network(name).words.optimizer, network)
        for name, network in networks.items()
        if name in trained
    }
    decays = {
        name: choice.words.average
        for name, choice in recipe.choices.items()
        if name in optimizers and isinstance(choice.words, schema.Network) and choice.words.average
    }
    schedules = {name: recipe.network(name).words.optimizer.factor for name in optimizers}
    start = recipe.tables.start
    ages = {}
    if start and (step := parse_step(start.checkpoint)) is not None:
        ages = dict.fromkeys(start.networks or (), step)
    return TrainingGraph(
        task,
        networks,
        read_by_scores,
        terms,
        optimizers,
        decays,
        autocast,
        ranks,
        schedules,
        ages,
        states,
        recipe.choices,
    )


def _has_state(part: Any) -> bool:
    """Whether a part that is no network of the run remembers something from step to step."""
    return isinstance(part, nn.Module) and not trained_parameters(part) and bool(state_of(part))


def _memory_order(module: nn.Module, device: torch.device) -> torch.memory_format:
    """The order in memory of a network's weights, which its feature maps take over."""
    instance_norm = any(isinstance(part, nn.InstanceNorm2d) for part in module.modules())
    # Convolutions read channels_last as it is. Instance norm of processors does not: it has every
    # map copied plane by plane and back, which costs what convolutions win, or far more.
    planes = instance_norm and device.type == "cpu"
    return torch.contiguous_format if planes else torch.channels_last


def rehearse(recipe: Recipe, task: Task) -> None:
    """Build every network without memory for it: what does not fit is said before any work.

    Published weights are fetched, so that a run without them ends before images are decoded, unless
    a plan is made (:func:`xraygan.utils.planning.planning`).

    Raises:
        RecipeError: every part that refused its options, the image size or the classes.
    """
    scores = [choice for choice in recipe.chosen("scores").values() if choice.words.weight != 0]
    readers = (*scores, *recipe.chosen("metrics").values())
    read = {f"extractors.{choice.options.get('extractor')}" for choice in readers}
    wanted = [c for table, c in recipe.choices.items() if table in {*MODELS, *read}]
    faults = []
    for choice in (*wanted, *scores):
        try:
            with torch.device("meta"), warnings.catch_warnings():
                # Each tensor of a file of weights would be said to go nowhere.
                warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
                _check_size(choice, build(choice, task))
        except UserError as error:
            faults.append(str(error))
        except Blocked as error:
            _log.debug("[%s] cannot be built without the network: %s", choice.table, error)
        except Exception as error:  # a constructor that computes needs numbers; the real one tells
            if "overflow" in str(error).lower():  # torch: more bytes than can be counted
                options = ", ".join(_integers(choice))
                faults.append(f"[{choice.table}]: the network is too large: lower {options}")
            _log.debug("[%s] cannot be rehearsed: %s", choice.table, error)
    if faults:
        raise RecipeError(faults)


def _check_size(choice: Choice, part: Any) -> None:
    """Refuse a network that no machine has memory for, while it takes none.

    Raises:
        UserError: it has more numbers than that.
    """
    numbers = sum(p.numel() for p in part.parameters()) if isinstance(part, nn.Module) else 0
    if numbers > MOST_PARAMETERS:
        raise UserError(
            f"[{choice.table}]: the network would have {numbers:,} parameters, and at most "
            f"{MOST_PARAMETERS:,} can be trained; lower its options {', '.join(_integers(choice))}"
        )


def _integers(choice: Choice) -> list[str]:
    return [f"{k} = {v}" for k, v in choice.options.items() if type(v) is int]


def build_extractor(recipe: Recipe, name: str, task: Task) -> Extractor:
    """One of a recipe's extractors, frozen."""
    choice = recipe.choices[f"extractors.{name}"]
    return build(choice, task, seed=recipe.tables.run.seed).requires_grad_(False).eval()


def _own_terms(recipe: Recipe, networks: Mapping[str, Any], parts: Mapping[str, Any]) -> list[Term]:
    """The networks' own losses: adversarial (Eqs. 1, 6) and classification (L_C of Eq. 11).

    Args:
        parts: the objective and the labeler, by their tables.
    """
    terms: list[Term] = []

    def add(
        name: str, compute: Callable[[Step], Tensor], weight: float, trains: Iterable[str],
        choice: Choice, method: str,
    ) -> None:  # fmt: skip
        if weight != 0:
            terms.append(Term(name, compute, weight, frozenset(trains), choice, method))

    if "objective" in recipe.choices:
        objective: Objective = parts["objective"]
        for name, loss in (
            ("generator", objective.generator_loss),
            ("discriminator", objective.discriminator_loss),
        ):
            weight, choice = recipe.network(name).words.weight, recipe.choices["objective"]
            add(name, loss, weight, [name], choice, f"{name}_loss()")
    if "classifier" in networks:
        classifier: Classifier = networks["classifier"]
        weight = recipe.network("classifier").words.weight
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
            lambda step: _labelled_loss(labeler, classifier, step),
            choice.words.weight,
            choice.words.trains,
            choice,
            "label()",
        )
    return terms


def _labelled_loss(labeler: Labeler, classifier: Classifier, step: Step) -> Tensor:
    """Mean classification loss over the generated images that the labeler keeps; 0 if none."""
    found, logits = labeler.label(step), step.fake_logits
    labels, weights = answers.labels(found, len(logits), step.task, logits.device)
    step.record("pseudo_label_kept", (weights > 0).float().mean())
    with step.asking("classifier", "losses()"):
        losses = _losses(classifier, logits, labels)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def _losses(classifier: Classifier, logits: Tensor, labels: Tensor) -> Tensor:
    return answers.floating(classifier.losses(logits, labels), (len(logits),))


def _score_terms(
    recipe: Recipe, scores: Mapping[str, Score], networks: Mapping[str, Any]
) -> list[Term]:
    terms = []
    for name, score in scores.items():
        choice = recipe.choices[f"scores.{name}"]
        own = (name,) if name in networks else ()
        named = choice.words.trains
        trains = frozenset((*score.trains, *own) if named is None else named)
        for network in sorted(trains - set(networks)):
            raise UserError(f"[scores.{name}] trains: {network!r} has no parameters to train")
        terms.append(Term(name, score, choice.words.weight, trains, choice))
    return terms


def _optimizer(words: schema.Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters, each as a row that shares its memory."""
    parameters = [nn.Parameter(flattened(p.data, p)) for p in trained_parameters(network)]
    common: dict[str, Any] = {"lr": words.lr, "weight_decay": words.weight_decay, "fused": True}
    if words.name == "sgd":
        return torch.optim.SGD(parameters, momentum=words.momentum, **common)
    kind = torch.optim.AdamW if words.name == "adamw" else torch.optim.Adam
    return kind(parameters, betas=words.betas, **common)
