"""The audit of the generated images of a study."""

from __future__ import annotations

from typing import Any

import torch

from xraygan._version import __version__
from xraygan.audit.audit import examine, protocol, random_source
from xraygan.audit.folders import folder_spaces
from xraygan.audit.held_out import HeldOut
from xraygan.audit.verdict import notes
from xraygan.data.datamodule import ImageData, Progress, prepare
from xraygan.data.image_splits import ImageSplit
from xraygan.errors import UserError
from xraygan.evaluation.folders import FolderEvaluation, graph_of
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.task import Task
from xraygan.recipe.loading import Recipe, load_tree
from xraygan.session.session import modes
from xraygan.utils.progress import Display
from xraygan.utils.seeding import rng

from .design import Options

#: most generated images that the audit looks at
AUDITED = 1000

#: keys of ``[data]`` that say how an image is read
_READ_BY = ("image_size", "grey")

Object = dict[str, Any]


def learned_from(trained: Recipe, recipe: Recipe, progress: Progress) -> ImageData:
    """The images that a run's generator learned from, read as those of the study are.

    Args:
        trained: recipe of the run.
        recipe: of all runs of the study, which may have another size of images.
    """
    tree, other = recipe.resolved(), trained.resolved()
    read = {key: tree["data"][key] for key in _READ_BY}
    # Images without labels are left out: no generator of the toolkit learns from them.
    tree["data"] = other["data"] | read | {"unlabelled": False}
    tree["run"] |= {key: other["run"][key] for key in ("seed", "batch_size")}
    return prepare(load_tree(tree, recipe.source), progress, training=False)


def measuring(recipe: Recipe, options: Options, task: Task) -> tuple[Recipe, TrainingGraph]:
    """The recipe that compares images, and a graph with its extractor, for :func:`evaluation_of`.

    Raises:
        UserError: there is no such extractor, or it cannot be built.
    """
    tree, name = recipe.resolved(), options.extractor
    # Generated images are read as the real ones are, so both are black at -1 here.
    tree["data"] = tree["data"] | {"value_range": [-1.0, 1.0]}
    if name is not None:
        tree["extractors"] = tree.get("extractors", {}) | {
            name: tree.get("extractors", {}).get(name, {})
        }
    try:
        recipe = load_tree(tree, recipe.source)
        return recipe, graph_of(recipe, task, () if name is None else (name,))
    except UserError as error:
        if name is None:
            raise
        raise UserError(f"--extractor {name}: {error}") from error


def evaluation_of(
    recipe: Recipe,
    graph: TrainingGraph,
    generated: ImageSplit,
    data: ImageData,
    training: ImageData,
) -> FolderEvaluation:
    """What compares the generated images with those that the generator learned from.

    Args:
        recipe, graph: of :func:`measuring`.
        data: of the study, with the held-out images.
        training: with the images that the generator learned from.
    """
    device, _ = modes(recipe)
    train, test = training.splits["train"], data.splits["test"]
    return FolderEvaluation(recipe, graph, generated, train, device, test)


def audit_study(
    evaluation: FolderEvaluation, options: Options, display: Display
) -> tuple[Object, bytes]:
    """Audit a sample of the generated images of a study.

    Returns:
        The content of ``audit.json``, and of ``audit.png``.
    """
    generated = evaluation.generated
    order = torch.randperm(len(generated), generator=rng("cpu", options.seed, "audited"))
    rows = order[:AUDITED].sort().values
    images = generated.images.take(rows)[:]
    names = [generated.paths[row] for row in rows.tolist()]
    held = HeldOut.draw(evaluation.train, evaluation.test, random_source(options.seed, "held-out"))
    embeds = folder_spaces(evaluation, options.extractor)
    found = examine(evaluation, embeds, images, held, options.seed, display, names)
    content = {
        **found.verdict,
        "xraygan": __version__,
        "protocol": protocol(evaluation, held, len(images), options.seed),
        **found.figures,
        "notes": notes(*found.tests, "study", "study"),
        "nearest": found.nearest,
    }
    return content, found.picture
