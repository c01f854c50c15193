"""Start a run from the networks of another run (``[start]``), also of one with other classes."""

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
from xraygan.parts.part_config import PartConfig
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe
from xraygan.recipe.schema import Start
from xraygan.rundir import checkpoint
from xraygan.rundir.checkpoint import Checkpoint
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.provenance import classes_of, read_environment
from xraygan.utils.parsing import sha256

MAX_NAMES = 8  # of tensors, in a message
_METADATA = ("age", "sex", "view")

_log = logging.getLogger(__name__)


def pin_start(recipe: Recipe, run_dir: RunDirectory) -> Recipe:
    """The recipe with a ``[start]`` that names the checkpoint by step and hash, and its networks.

    A run that has a checkpoint of its own no longer needs the other run: the pinned ``[start]`` is
    then read from its own recipe.

    Args:
        run_dir: the run's own directory.

    Raises:
        UserError: the other run does not exist, its files do not match the hash, or it has no
            network that the recipe has.
    """
    start = recipe.tables.start
    if start is None:
        return recipe
    start = start.model_copy(update={"run": str(Path(start.run).resolve())})
    recorded = _recorded_start(run_dir)
    if recorded is not None and _is_same_start(start, recorded):
        start = recorded
    if recorded is None or checkpoint.latest(run_dir.checkpoints) is None:
        source = _find_checkpoint(start)
        start = Start(
            run=start.run,
            checkpoint=str(source.step),
            networks=_shared_networks(start, source, recipe),
            sha256=_manifest_digest(source),
        )
    return replace(recipe, tables=recipe.tables.model_copy(update={"start": start}))


def load_start_networks(recipe: Recipe, graph: TrainingGraph) -> list[str]:
    """Load the other run's networks into a graph that has not been trained.

    Tensors whose names and shapes fit are loaded, the others keep their initial values; so do
    those whose shape follows the classes or the metadata, unless both runs have the same ones.
    Networks start from networks, averages from averages; where the other run has no average, it
    starts as a copy of the network. Optimizers and augmenters start afresh, as in the transfer
    learning of Karras et al. (arXiv:2006.06676).

    Returns:
        Lines that say which tensors were loaded and which were not.

    Raises:
        UserError: no tensor of a network fits, or the files do not match the hash.
    """
    start = recipe.tables.start
    assert start is not None and start.networks is not None
    source, lines = _find_checkpoint(start), []
    for name in start.networks:
        network = graph.networks[name]
        unlike = _tensors_of_other_meaning(recipe.network(name), graph.task, start)
        lines += _load_fitting(source, name, network, unlike)
        if name in graph.ema:
            if f"{name}.average" in source.networks():
                lines += _load_fitting(source, f"{name}.average", graph.ema[name], unlike)
            else:
                graph.ema[name].load_state_dict(network.state_dict())
    if initialised := [name for name in graph.networks if name not in start.networks]:
        lines.append(f"initialised as usual: {', '.join(initialised)}")
    return lines


def _recorded_start(run_dir: RunDirectory) -> Start | None:
    """The ``[start]`` of the recipe in a run directory; None if it has none."""
    if not run_dir.recipe.is_file():
        return None
    try:
        return Start.model_validate(run_dir.read_recipe()["start"])
    except (KeyError, ValidationError):
        return None


def _is_same_start(requested: Start, recorded: Start) -> bool:
    """Whether a requested ``[start]`` can stand for the pinned one that the run has recorded."""
    names = (checkpoint.LATEST, checkpoint.BEST, recorded.checkpoint)
    return (
        (requested.run, requested.sha256) == (recorded.run, None)
        and requested.checkpoint in names
        and requested.networks in (None, recorded.networks)
    )


def _find_checkpoint(start: Start) -> Checkpoint:
    try:
        source = checkpoint.find(RunDirectory.open(Path(start.run)).checkpoints, start.checkpoint)
    except UserError as error:
        raise UserError(f"[start] run: {error}") from None
    if start.sha256 not in (None, _manifest_digest(source)):
        raise UserError(
            f"[start] sha256: {source.directory} is not the checkpoint that this recipe started "
            "from: its manifest.json has another hash. Restore the original files, or start from "
            f"the present ones with --from {start.run}"
        )
    return source


def _manifest_digest(source: Checkpoint) -> str:
    return sha256(source.directory / "manifest.json")


def _shared_networks(start: Start, source: Checkpoint, recipe: Recipe) -> list[str]:
    """The networks to load: those of ``[start] networks``, or all that both runs have.

    Raises:
        UserError: one of these is missing in one of the runs, or they share none.
    """
    own = [name for name in MODELS if name in recipe.choices and name != AUGMENTER]
    own += [name for name, c in recipe.chosen("scores").items() if c.config.weight != 0]
    saved = [name for name in source.networks() if name != AUGMENTER]
    both = [name for name in own if name in saved]
    for name in start.networks or ():
        if name not in both:
            lacks = "this recipe has" if name in saved else f"{start.run} has saved"
            raise UserError(f"[start] networks: {lacks} no {name!r}; {did_you_mean(name, both)}")
    if not both:
        raise UserError(
            f"[start] run: {start.run} has none of this recipe's networks: it has "
            f"{', '.join(saved) or 'none'}, and the recipe has {', '.join(own)}"
        )
    return start.networks or both


def _load_fitting(source: Checkpoint, name: str, network: nn.Module, unlike: set[str]) -> list[str]:
    """Load the tensors of a saved network whose names and shapes fit.

    Args:
        unlike: names of tensors that mean something else in the other run.

    Returns:
        Lines that say which tensors were loaded and which were not.

    Raises:
        UserError: no parameter fits.
    """
    saved, own = source.weights(name, network), network.state_dict()
    fitting = {
        key: value for key, value in saved.items()
        if key in own and value.shape == own[key].shape and key not in unlike
    }  # fmt: skip
    parameters = [key for key, _ in network.named_parameters()]
    if parameters and not any(key in fitting for key in parameters):
        raise UserError(
            f"[start] run: no parameter of the {name} in {source.directory} has the same name and "
            "shape in this recipe. Give the network the same plugin and options, or leave it out "
            "with [start] networks"
        )
    network.load_state_dict(fitting, strict=False)
    loaded, total = _count_elements(fitting.values()), _count_elements(own.values())
    lines = [
        f"{name}: {len(fitting)} of {len(own)} tensors ({loaded:,} of {total:,} numbers) are taken "
        f"from {source.directory}"
    ]
    if rest := [key for key in own if key not in fitting]:
        more = f" and {len(rest) - MAX_NAMES} more" if len(rest) > MAX_NAMES else ""
        lines.append(f"{name}: initialised as usual: {', '.join(rest[:MAX_NAMES])}{more}")
    return lines


def _count_elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _tensors_of_other_meaning(choice: PartConfig, task: Task, start: Start) -> set[str]:
    """The names of a network's tensors that stand for other classes or metadata in the other run.

    A tensor may have the same shape and still mean other classes: a last layer of three classes
    each, say. To tell such tensors, the network is built (on the meta device, without memory) for
    one class or one metadata key more: they are those whose shapes change.
    """
    run_dir = RunDirectory(Path(start.run))
    their_classes: Iterable[str] = classes_of(read_environment(run_dir))
    their_metadata = run_dir.read_recipe().get("data", {}).get("metadata", [])
    others = []
    if tuple(their_classes) != task.classes:
        others.append(replace(task, classes=(*task.classes, "one more"), counts=None))
    if tuple(their_metadata) != task.metadata:
        more = next((name for name in _METADATA if name not in task.metadata), None)
        metadata = (*task.metadata, more) if more else task.metadata[1:]
        others.append(replace(task, metadata=metadata, counts=None))
    if not others:
        return set()
    shapes = [_shapes(choice, each) for each in (replace(task, counts=None), *others)]
    return {key for key, shape in shapes[0].items() for other in shapes[1:]
            if other.get(key, shape) != shape}  # fmt: skip


def _shapes(choice: PartConfig, task: Task) -> dict[str, torch.Size]:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
        try:
            return {key: value.shape for key, value in build(choice, task).state_dict().items()}
        except Exception as error:  # a constructor that computes: then names and shapes decide
            _log.debug("[%s] cannot be built without memory: %s", choice.table, error)
            return {}
