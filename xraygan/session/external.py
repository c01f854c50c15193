"""An external test set for a run: its recipe, its images, and a check that they are new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygan.data.external import ExternalImages, read_external
from xraygan.data.image_splits import ImageSplit
from xraygan.errors import UserError
from xraygan.evaluation.external import ExternalEvaluation
from xraygan.evaluation.leakage import check_external
from xraygan.recipe.files import parse_override
from xraygan.recipe.loading import Recipe, load_tree
from xraygan.rundir.directory import RunDirectory
from xraygan.utils.progress import Display

from .session import Session, restore_session

#: keys of the run's [data] that say how its networks read an image; the others describe its data
READ_ALIKE = (
    "image_size", "value_range", "label_policy", "metadata", "grey", "cache", "on_bad_image"
)  # fmt: skip
#: keys of [data] that the networks were trained with
FIXED = ("image_size", "value_range", "label_policy", "metadata", "classes", "only")
#: keys of [data] that only concern training images
UNUSED = ("limit", "unlabelled", "validation", "sampling", "augmentation")


@dataclass(frozen=True)
class ExternalTest:
    """A run's classifier before an external test set.

    Attributes:
        session: the run's, with its networks.
        step: of the checkpoint.
        images: the external images.
        checked: whether it is known that the run learned from none of them.
    """

    session: Session
    run_dir: RunDirectory
    step: int
    recipe: Recipe
    images: ExternalImages
    checked: bool
    _display: Display

    def evaluation(self) -> ExternalEvaluation:
        """What the metrics read."""
        session = self.session
        return ExternalEvaluation(
            self.recipe, session.graph, self.images.split,
            frozenset(self.images.classes.values()), session.device, self._validation,
        )  # fmt: skip

    def _validation(self) -> ImageSplit | None:
        try:
            return self.session.data.splits.get("val")
        except UserError as error:
            reason = "the run's own validation images cannot be read"
            self._display.say(f"warning: no thresholds, since {reason}: {error}")
            return None


def open_external(
    directory: Path,
    overrides: Iterable[str],
    display: Display,
    checkpoint: str,
    *,
    classes: Mapping[str, str],
    all_images: bool,
) -> ExternalTest:
    """Restore a run and read an external test set for its classifier.

    Args:
        overrides: ``"table.key=value"`` each; those of ``[data]`` describe the external data.
        checkpoint: ``"latest"``, ``"best"``, or a step.
        classes: the run's class for classes of the external data.
        all_images: whether the images of every split of the external data count.

    Raises:
        UserError: the run has no classifier, the data or an option are at fault, or the run learned
            from some of the images.
    """
    overrides = tuple(overrides)
    own = [o for o in overrides if parse_override(o)[0][0] != "data"]
    session, run_dir, step = restore_session(directory, own, display, checkpoint)
    if "classifier" not in session.graph.networks:
        raise UserError(f"{directory}: the run has no classifier, so there is nothing to test")
    recipe = external_recipe(run_dir, overrides)
    task = session.graph.task
    images = read_external(
        recipe, task, classes, only=session.recipe.tables.data.only, all_images=all_images,
        progress=display.progress,
    )  # fmt: skip
    checked = check_external(run_dir, images.contents, images.split.paths)
    for line in images.warnings:
        display.say(f"warning: {line}")
    return ExternalTest(session, run_dir, step, recipe, images, checked, display)


def external_recipe(run_dir: RunDirectory, overrides: tuple[str, ...]) -> Recipe:
    """The run's recipe with a ``[data]`` of its own, which only keeps how images are read.

    Raises:
        UserError: the data set is not named, or a key is at fault.
    """
    keys = [parse_override(override)[0] for override in overrides]
    if ("data", "plugin") not in keys:
        raise UserError(
            "--external: name the external data with --set data.plugin=NAME and --set "
            "data.root=FOLDER, and further keys of its [data] as in a recipe"
        )
    for key in keys:
        if key[0] == "data" and key[1:2] and key[1] in FIXED:
            raise UserError(
                f"--set {'.'.join(key)}: the run's networks need its own value; leave it out"
            )
        if key[0] == "data" and key[1:2] and key[1] in UNUSED:
            raise UserError(
                f"--set {'.'.join(key)}: it has no effect on an external test set; leave it out"
            )
        if key == ("evaluation", "split"):
            raise UserError(
                "--set evaluation.split: an external test set has its test images measured, or "
                "with --all-images all of them; leave it out"
            )
    tree: dict[str, Any] = dict(run_dir.read_recipe())
    tree["data"] = {key: value for key, value in tree["data"].items() if key in READ_ALIKE}
    tree["evaluation"] = {**tree.get("evaluation", {}), "protocol": "official", "split": "test"}
    return load_tree(tree, run_dir.recipe, overrides)
