"""A run that starts from the networks of another one (``[start]``), of other classes perhaps."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from xraygan.errors import UserError, did_you_mean
from xraygan.graph.graph import AUGMENTER, MODELS, TrainingGraph
from xraygan.parts.building import build
from xraygan.parts.choice import Choice
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.recipe.schema import Start
from xraygan.rundir import checkpoint
from xraygan.rundir.checkpoint import Checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.provenance import classes_of, read_environment
from xraygan.utils.parsing import sha256

SHOWN = 8  # names of tensors in a message
_KNOWN = ("age", "sex", "view")

_log = logging.getLogger(__name__)


def pinned(recipe: Recipe, place: RunDirectory) -> Recipe:
    """The recipe with the step, the networks and the hash of the checkpoint that it starts from.

    A run that has a checkpoint of its own does not need the other run any more: what its recipe
    says is taken over.

    Args:
        place: the run's own directory.

    Raises:
        UserError: the other run is not there, its files do not match the hash, or it has no network
            that the recipe has.
    """
    start = recipe.tables.start
    if start is None:
        return recipe
    start = start.model_copy(update={"run": str(Path(start.run).resolve())})
    kept = _kept(place)
    if kept is not None and _same(start, kept):
        start = kept
    if kept is None or checkpoint.latest(place.checkpoints) is None:
        found = _find(start)
        start = Start(
            run=start.run,
            checkpoint=str(found.step),
            networks=_chosen(start, found, recipe),
            sha256=_digest(found),
        )
    return replace(recipe, tables=recipe.tables.model_copy(update={"start": start}))


def take_over(recipe: Recipe, graph: TrainingGraph) -> list[str]:
    """Put the other run's networks into a graph that has not been trained.

    Tensors whose names and shapes fit are taken, the others stay as they are initialised; so do
    those whose shape follows the classes or the metadata, unless both runs have the same ones.
    Networks start from networks, averages from averages; where the other run kept no average, it
    starts as the network does. Optimizers and augmenters begin anew, as in the transfer learning of
    Karras et al. (arXiv:2006.06676).

    Returns:
        What was taken and what was not, in lines.

    Raises:
        UserError: nothing of a network fits, or the files do not match the hash.
    """
    start = recipe.tables.start
    assert start is not None and start.networks is not None
    found, lines = _find(start), []
    for name in start.networks:
        network = graph.networks[name]
        others = _bound(recipe.network(name), graph.task, start)
        lines += _take(found, name, network, others)
        if name in graph.averages:
            if f"{name}.average" in found.networks():
                lines += _take(found, f"{name}.average", graph.averages[name], others)
            else:
                graph.averages[name].load_state_dict(network.state_dict())
    if anew := [name for name in graph.networks if name not in start.networks]:
        lines.append(f"initialised as usual: {', '.join(anew)}")
    return lines


def _kept(place: RunDirectory) -> Start | None:
    """What a run's own recipe says that it started from."""
    if not place.recipe.is_file():
        return None
    try:
        return Start.model_validate(place.read_recipe()["start"])
    except (KeyError, ValidationError):
        return None


def _same(asked: Start, kept: Start) -> bool:
    """Whether a run that started as ``kept`` is one that is asked to start so."""
    which = (checkpoint.LATEST, checkpoint.BEST, kept.checkpoint)
    return (
        (asked.run, asked.sha256) == (kept.run, None)
        and asked.checkpoint in which
        and asked.networks in (None, kept.networks)
    )


def _find(start: Start) -> Checkpoint:
    try:
        found = checkpoint.find(RunDirectory.open(Path(start.run)).checkpoints, start.checkpoint)
    except UserError as error:
        raise UserError(f"[start] run: {error}") from None
    if start.sha256 not in (None, _digest(found)):
        raise UserError(
            f"[start] sha256: {found.directory} is not the checkpoint that this recipe started "
            "from: the hash of its manifest.json is another one. Put back the files as they were, "
            f"or start from those that are there now with --from {start.run}"
        )
    return found


def _digest(found: Checkpoint) -> str:
    return sha256(found.directory / "manifest.json")


def _chosen(start: Start, found: Checkpoint, recipe: Recipe) -> list[str]:
    """The networks that are taken: those that are asked for, or all that both have."""
    own = [name for name in MODELS if name in recipe.choices and name != AUGMENTER]
    own += [name for name, c in recipe.chosen("scores").items() if c.words.weight != 0]
    there = [name for name in found.networks() if name != AUGMENTER]
    both = [name for name in own if name in there]
    for name in start.networks or ():
        if name not in both:
            lacks = "this recipe has" if name in there else f"{start.run} has saved"
            raise UserError(f"[start] networks: {lacks} no {name!r}; {did_you_mean(name, both)}")
    if not both:
        raise UserError(
            f"[start] run: {start.run} has none of this recipe's networks: it has "
            f"{', '.join(there) or 'none'}, and the recipe has {', '.join(own)}"
        )
    return start.networks or both


def _take(found: Checkpoint, name: str, network: nn.Module, bound: set[str]) -> list[str]:
    """Put the tensors of a saved network that fit into another one.

    Args:
        bound: names of tensors that mean something else in the other run.

    Returns:
        What was taken and what was not, in lines.
    """
    saved, own = found.weights(name, network), network.state_dict()
    fitting = {
        key: value for key, value in saved.items()
        if key in own and value.shape == own[key].shape and key not in bound
    }  # fmt: skip
    parameters = [key for key, _ in network.named_parameters()]
    if parameters and not any(key in fitting for key in parameters):
        raise UserError(
            f"[start] run: nothing of the {name} in {found.directory} fits this recipe's: no "
            "parameter has the same name and shape. Give the network the same plugin and options, "
            "or leave it out with [start] networks"
        )
    network.load_state_dict(fitting, strict=False)
    numbers, of = _numbers(fitting.values()), _numbers(own.values())
    lines = [
        f"{name}: {len(fitting)} of {len(own)} tensors ({numbers:,} of {of:,} numbers) are taken "
        f"from {found.directory}"
    ]
    if left := [key for key in own if key not in fitting]:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        lines.append(f"{name}: initialised as usual: {', '.join(left[:SHOWN])}{more}")
    return lines


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bound(choice: Choice, task: Task, start: Start) -> set[str]:
    """The names of a network's tensors that mean other classes or metadata in the other run.

    They are found by building the network, without memory, for one class or metadata more: those
    whose shapes follow.
    """
    place = RunDirectory(Path(start.run))
    there: Iterable[str] = classes_of(read_environment(place))
    told = place.read_recipe().get("data", {}).get("metadata", [])
    others = []
    if tuple(there) != task.classes:
        others.append(replace(task, classes=(*task.classes, "one more"), counts=None))
    if tuple(told) != task.metadata:
        more = next((name for name in _KNOWN if name not in task.metadata), None)
        metadata = (*task.metadata, more) if more else task.metadata[1:]
        others.append(replace(task, metadata=metadata, counts=None))
    if not others:
        return set()
    shapes = [_shapes(choice, each) for each in (replace(task, counts=None), *others)]
    return {key for key, shape in shapes[0].items() for other in shapes[1:]
            if other.get(key, shape) != shape}  # fmt: skip


def _shapes(choice: Choice, task: Task) -> dict[str, torch.Size]:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
        try:
            return {key: value.shape for key, value in build(choice, task).state_dict().items()}
        except Exception as error:  # a constructor that computes; shapes alone decide then
            _log.debug("[%s] cannot be built without memory: %s", choice.table, error)
            return {}
