"""Folders of images as an evaluation: the recipe that measures them, and their images decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygan._version import __version__
from xraygan.data.file_digests import content_identity
from xraygan.data.folders import FolderImages, PatientTable, check_apart, read_folder
from xraygan.errors import UserError, did_you_mean
from xraygan.evaluation.evaluation import CONFIDENCE
from xraygan.evaluation.folders import FolderEvaluation, graph_of, measure_folders
from xraygan.parts.registry import installed
from xraygan.parts.task import Task
from xraygan.recipe.files import Tree, parse_override, plain
from xraygan.recipe.loading import Recipe, load_tree
from xraygan.utils.progress import Display

from .session import modes

#: the metrics that compare generated with real images, and whether each reads an extractor
METRICS = {
    "frechet": True,
    "kid": True,
    "precision_recall": True,
    "density_coverage": True,
    "ms_ssim": False,
}
#: the tables that --set may change, since nothing is trained
TABLES = ("run", "data", "extractors", "metrics", "evaluation")
#: keys of [data] that the folders and options of the command line replace
REPLACED = ("plugin", "root", "table", "split")

Object = dict[str, Any]


@dataclass(frozen=True)
class FolderOptions:
    """How folders are measured.

    Attributes:
        image_size: S, to which all images are resized.
        extractor: in whose features images are compared; None for none.
        overrides: ``"table.key=value"`` each, as ``--set`` on the command line.
    """

    image_size: int
    extractor: str | None
    overrides: tuple[str, ...] = ()


def evaluate_folders(
    images: Path, reference: Path, options: FolderOptions, display: Display
) -> Object:
    """Compare the images of two folders by the metrics that compare generated with real images.

    Returns:
        ``protocol``, ``metrics`` as in ``evaluation.json``, and ``control`` as
        :func:`xraygan.evaluation.folders.measure_folders` says.

    Raises:
        UserError: an option, a folder or an image is at fault.
    """
    recipe = measuring_recipe(options, metrics=True)
    folders = {"--images": images, "--reference": reference}
    evaluation, read = open_folders(recipe, options, folders, display)
    protocol = protocol_of(recipe, options, read) | {
        "seed": recipe.tables.run.seed,
        "bootstrap": recipe.tables.evaluation.bootstrap,
        "confidence": CONFIDENCE,
    }
    return {"xraygan": __version__, "protocol": protocol, **measure_folders(evaluation)}


def measuring_recipe(options: FolderOptions, *, metrics: bool, table: Path | None = None) -> Recipe:
    """The recipe that measures folders; it trains nothing.

    Args:
        metrics: whether metrics are measured.
        table: labels and patients of the images.

    Raises:
        UserError: there is no such extractor, or an override is at fault.
    """
    for key in (parse_override(override)[0] for override in options.overrides):
        if key[0] not in TABLES or (key[0] == "data" and key[-1] in REPLACED):
            raise UserError(
                f"--set {'.'.join(key)}: without a run, --set changes [metrics], [extractors], "
                "[evaluation], [run], and in [data] how images are read "
                "(grey, on_bad_image, cache) and the columns of --table"
            )
    tree: Tree = {
        "run": {"name": "folders", "steps": 1},
        "data": {"plugin": "csv", "image_size": options.image_size, "split": ""},
    }
    if table is not None:
        tree["data"]["table"] = table.name
    if (name := options.extractor) is not None:
        own = {parse_override(o)[0][:2] for o in options.overrides}
        known = set(installed().names("extractor")) - {"classifier"}
        if name == "classifier" or (name not in known and ("extractors", name) not in own):
            reason = "only a run has a classifier of its own" if name == "classifier" else ""
            raise UserError(
                f"--extractor {name}: {reason or 'no such extractor is installed'}; "
                f"{did_you_mean(name, known)}"
            )
        tree["extractors"] = {name: {}}
    if metrics:
        tree["metrics"] = {
            metric: {"extractor": options.extractor} if reads else {}
            for metric, reads in METRICS.items()
        }
    return load_tree(tree, Path("the command line"), options.overrides, trains=False)


def open_folders(
    recipe: Recipe,
    options: FolderOptions,
    folders: Mapping[str, Path],
    display: Display,
    table: Path | None = None,
) -> tuple[FolderEvaluation, dict[str, FolderImages]]:
    """Decode the images of folders; the extractor is built first, since it may be missing.

    Args:
        folders: by option: those of generated, of real and, for an audit, of held-out images.
        table: labels and patients of the real images.

    Raises:
        UserError: a folder, an image, the table or the extractor is at fault.
    """
    patients = None if table is None else PatientTable(recipe, table)
    classes = () if patients is None else patients.classes
    task = Task(recipe.tables.data.image_size, classes, exclusive=False)
    device, _ = modes(recipe)
    check_apart(folders)
    graph = graph_of(recipe, task, () if options.extractor is None else (options.extractor,))
    read = {}
    for i, (option, folder) in enumerate(folders.items()):
        known = patients if i else None  # nobody is the patient of a generated image
        read[option] = read_folder(recipe, folder, option, display.progress, known)
        for line in read[option].warnings:
            display.say(f"warning: {option} {folder}: {line}")
        if len(read[option].split) < 2:
            raise UserError(
                f"{option} {folder}: only one image can be read, and every figure needs two or more"
            )
    generated, train, *held_out = (images.split for images in read.values())
    test = held_out[0] if held_out else None
    return FolderEvaluation(recipe, graph, generated, train, device, test), read


def protocol_of(recipe: Recipe, options: FolderOptions, read: Mapping[str, FolderImages]) -> Object:
    """The keys of a result's ``protocol`` that say which images were measured, and how."""
    extractor: Object | None = None
    if (name := options.extractor) is not None:
        choice = recipe.choices[f"extractors.{name}"]
        values = {key: plain(value) for key, value in choice.options.items()}
        extractor = {"name": name, "plugin": choice.part.name, "options": values}
    folders = {
        option.removeprefix("--"): {
            "folder": str(images.folder.resolve()),
            "images": len(images.split),
            "pixels": images.sha256,
            "left_out": images.left_out,
        }
        for option, images in read.items()
    }
    return {
        "name": "folders",
        "folders": folders,
        "image_size": recipe.tables.data.image_size,
        "grey": plain(recipe.tables.data.grey),
        "extractor": extractor,
    }


def shared_files(first: FolderImages, second: FolderImages) -> list[tuple[str, str]]:
    """The pairs of files with the same content in two folders, by their paths."""
    contents = {
        content_identity(word): path
        for word, path in zip(first.contents, first.split.paths, strict=True)
    }
    pairs: Iterable[tuple[str, str]] = zip(second.contents, second.split.paths, strict=True)
    return [
        (contents[content], path)
        for word, path in pairs
        if (content := content_identity(word)) in contents
    ]
