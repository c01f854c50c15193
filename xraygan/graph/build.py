"""Builds the parts of a recipe and assembles them into a training graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from xraygan.distributed.ranks import DistributedContext, synchronise_batch_norm
from xraygan.errors import RecipeError, UserError
from xraygan.parts.building import build, from_random
from xraygan.parts.interfaces import Extractor, Score
from xraygan.parts.part_config import PartConfig
from xraygan.parts.task import Task
from xraygan.recipe import schema
from xraygan.recipe.files import plain
from xraygan.recipe.loading import Recipe
from xraygan.utils.depthwise import accelerate_depthwise
from xraygan.utils.limits import MOST_PARAMETERS, parse_step
from xraygan.utils.planning import Blocked
from xraygan.utils.tensors import flattened

from .graph import GENERATOR, MODELS, TrainingGraph
from .parameters import state_of, trained_parameters
from .terms import network_terms, score_terms

_log = logging.getLogger(__name__)

#: networks that no term differentiates twice, as penalties do with the discriminator and, before
#: it, the augmenter; of a score's own network nobody knows
DIFFERENTIATED_ONCE = (GENERATOR, "classifier")


def assemble(
    recipe: Recipe,
    task: Task,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    ranks: DistributedContext | None = None,
    *,
    weights: bool = True,
    extractors: bool = True,
) -> TrainingGraph:
    """Build the training graph of a recipe.

    Initial weights depend on the recipe's seed and on the network's own name, nothing else.

    Args:
        weights: read the weights that networks start from; False where a checkpoint has theirs.
        extractors: build the networks that scores read; False where nothing is trained or measured.

    Raises:
        UserError: a part refused its options or could not be built; the message names its table.
    """
    # Networks and other parts first, then the terms that connect them, then what trains them.
    networks, scores, parts = _build_parts(recipe, task, weights=weights)
    read_by_scores = _build_extractors(recipe, scores, task) if extractors else {}
    terms = [*network_terms(recipe, networks, parts), *score_terms(recipe, scores, networks)]
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    on_gpu = torch.device(device).type == "cuda"
    once = [networks[name] for name in DIFFERENTIATED_ONCE if name in networks]
    for module in (*networks.values(), *read_by_scores.values(), *modules):
        if ranks:
            synchronise_batch_norm(module, ranks, fused=on_gpu and module in once)
        accelerate_depthwise(module)
        module.to(memory_format=_memory_format(module, torch.device(device))).to(device)
    trained = frozenset().union(*(term.trains for term in terms)) if terms else frozenset()
    optimizers = {
        name: _build_optimizer(recipe.network(name).config.optimizer, network)
        for name, network in networks.items()
        if name in trained
    }
    return TrainingGraph(
        task,
        networks,
        read_by_scores,
        terms,
        optimizers,
        _ema_decays(recipe, optimizers),
        autocast,
        ranks,
        {name: recipe.network(name).config.optimizer.factor for name in optimizers},
        _prior_steps(recipe),
        {table: part for table, part in parts.items() if _has_state(part)},
        recipe.choices,
    )


def _build_parts(
    recipe: Recipe, task: Task, *, weights: bool
) -> tuple[dict[str, nn.Module], dict[str, Score], dict[str, Any]]:
    """A recipe's networks and scores by name, and its scores, objective and labeler by table.

    A score that has parameters to train is a network as well.
    """
    seed = recipe.tables.run.seed
    networks: dict[str, nn.Module] = {}
    for name in MODELS:
        if name in recipe.choices:
            choice = recipe.choices[name]
            networks[name] = build(choice if weights else from_random(choice), task, seed=seed)
    scores: dict[str, Score] = {}
    for name, choice in recipe.chosen("scores").items():
        if choice.config.weight != 0:
            scores[name] = build(choice, task, seed=seed)
            if trained_parameters(scores[name]):
                networks[name] = scores[name]
    parts: dict[str, Any] = {f"scores.{name}": score for name, score in scores.items()}
    for name, arguments in (("objective", ()), ("labeler", (task,))):
        if name in recipe.choices:
            parts[name] = build(recipe.choices[name], *arguments)
    return networks, scores, parts


def _build_extractors(recipe: Recipe, scores: Iterable[str], task: Task) -> dict[str, Extractor]:
    """The extractors that some scores read, by name."""
    names = [recipe.choices[f"scores.{score}"].options.get("extractor") for score in scores]
    return {name: build_extractor(recipe, name, task) for name in dict.fromkeys(names) if name}


def _ema_decays(recipe: Recipe, optimizers: Iterable[str]) -> dict[str, float]:
    """Trained network -> decay of the moving average that ``average`` asks for."""
    return {
        name: choice.config.average
        for name, choice in recipe.choices.items()
        if name in optimizers
        and isinstance(choice.config, schema.Network)
        and choice.config.average
    }


def _prior_steps(recipe: Recipe) -> dict[str, int]:
    """Network -> steps of the run that it starts from (``[start]``)."""
    start = recipe.tables.start
    if start is None or (step := parse_step(start.checkpoint)) is None:
        return {}
    return dict.fromkeys(start.networks or (), step)


def _has_state(part: Any) -> bool:
    """Whether a part that no optimizer trains has buffers, and so a state from step to step."""
    return isinstance(part, nn.Module) and not trained_parameters(part) and bool(state_of(part))


def _memory_format(module: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory format of a network's weights, which its feature maps inherit."""
    instance_norm = any(isinstance(part, nn.InstanceNorm2d) for part in module.modules())
    # Convolutions are faster in channels_last. Instance norm on the CPU is not: it copies every
    # map to planes and back, which costs as much as convolutions gain, or far more.
    planes = instance_norm and device.type == "cpu"
    return torch.contiguous_format if planes else torch.channels_last


def dry_build(recipe: Recipe, task: Task) -> None:
    """Build every network on the meta device, without memory, to find faults before any work.

    Published weights are downloaded, so that a run without them ends before images are decoded,
    unless the run is only planned (:func:`xraygan.utils.planning.planning`).

    Raises:
        RecipeError: it lists every part that refused its options, the image size or the classes.
    """
    scores = [choice for choice in recipe.chosen("scores").values() if choice.config.weight != 0]
    readers = (*scores, *recipe.chosen("metrics").values())
    read = {f"extractors.{choice.options.get('extractor')}" for choice in readers}
    used = [c for table, c in recipe.choices.items() if table in {*MODELS, *read}]
    faults = []
    for choice in (*used, *scores):
        try:
            with torch.device("meta"), warnings.catch_warnings():
                # PyTorch warns of each tensor that is loaded into a module on the meta device.
                warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
                _check_size(choice, build(choice, task))
        except UserError as error:
            faults.append(str(error))
        except Blocked as error:
            _log.debug("[%s] cannot be built without the network: %s", choice.table, error)
        except Exception as error:
            # A constructor that computes fails on the meta device: its own fault, if it has one,
            # is found when it is built with memory.
            if "overflow" in str(error).lower():  # torch: more bytes than can be counted
                options = ", ".join(_integers(choice))
                faults.append(f"[{choice.table}]: the network is too large: lower {options}")
            _log.debug("[%s] cannot be built without memory: %s", choice.table, error)
    if faults:
        raise RecipeError(faults)


def _check_size(choice: PartConfig, part: Any) -> None:
    """Refuse a network that no machine has memory for, before it takes any.

    Raises:
        UserError: it has more parameters than :data:`MOST_PARAMETERS`.
    """
    count = sum(p.numel() for p in part.parameters()) if isinstance(part, nn.Module) else 0
    if count > MOST_PARAMETERS:
        raise UserError(
            f"[{choice.table}]: the network would have {count:,} parameters, and at most "
            f"{MOST_PARAMETERS:,} can be trained; lower its options {', '.join(_integers(choice))}"
        )


def _integers(choice: PartConfig) -> list[str]:
    return [f"{k} = {v}" for k, v in choice.options.items() if type(v) is int]


def rebuild_options(choice: PartConfig) -> dict[str, Any]:
    """The options that build a network whose weights come from elsewhere, as TOML and JSON can
    write them: those of the recipe, without the file or download that it would start from."""
    return {name: plain(value) for name, value in from_random(choice).options.items()}


def build_extractor(recipe: Recipe, name: str, task: Task) -> Extractor:
    """Build one of a recipe's extractors, frozen, in evaluation mode."""
    choice = recipe.choices[f"extractors.{name}"]
    return build(choice, task, seed=recipe.tables.run.seed).requires_grad_(False).eval()


def _build_optimizer(config: schema.Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters, each as a row that shares its memory.

    See :func:`xraygan.utils.tensors.flattened` for the reason.
    """
    parameters = [nn.Parameter(flattened(p.data, p)) for p in trained_parameters(network)]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(parameters, momentum=config.momentum, **common)
    else:
        kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, betas=config.betas, **common)
    # On a GPU the fused optimizers read their rate there, and so it may change in a captured step.
    device = parameters[0].device if parameters else torch.device("cpu")
    if device.type == "cuda":
        optimizer.param_groups[0]["lr"] = torch.full((), config.lr, device=device)
    return optimizer
