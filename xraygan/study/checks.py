"""What can be known to be wrong before a study writes its folder or trains anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xraygan.data.datamodule import ImageData
from xraygan.data.folders import require_folder
from xraygan.data.image_splits import ImageSplit
from xraygan.errors import UserError, did_you_mean
from xraygan.evaluation.evaluation import RunEvaluation, evaluate
from xraygan.evaluation.folders import graph_of
from xraygan.evaluation.leakage import check_unseen
from xraygan.recipe.files import parse_override
from xraygan.recipe.loading import Recipe
from xraygan.rundir import checkpoint
from xraygan.rundir.conditions import recorded_task
from xraygan.rundir.directory import RunDirectory
from xraygan.sweep.file import flatten
from xraygan.utils.limits import SEEDS

from .design import CHOICE_SEED, Options, describe_real
from .filters import NONE
from .pool import TABLE
from .record import Source

#: keys that the design sets in each run, and what to use in place of ``--set``
OWNED = {
    "run.seed": "the seeds of the runs are those of --seed and --seeds",
    "run.name": "each run is named after its arm; name the study's folder with --out",
    "run.steps": "use --steps",
    "data.limit": "use --real",
    "data.generated": "the arms differ in their generated images; use --ratios and --arms",
    "evaluation.split": "arms are chosen on validation images and tested on test images",
}


def check_options(options: Options) -> None:
    """Check what follows from the options alone.

    Raises:
        UserError: --set sets a key of the design, two values have one name, or a seed is too large.
    """
    for key, value in map(parse_override, options.overrides):
        for name in flatten({".".join(key): value}):
            for owned, remedy in OWNED.items():
                if f"{name}.".startswith(f"{owned}."):
                    raise UserError(f"--set {name}: a study sets this itself; {remedy}")
    for option, values in (("--ratios", options.ratios), ("--keep", options.keep)):
        names = [f"{value:g}" for value in values]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"{option}: two of its values are {twice[0]} to six digits, and their runs would "
                "share a folder; name only one of them"
            )
    last = options.seed + CHOICE_SEED + max(options.seeds, options.choice_seeds)
    if last >= SEEDS:
        raise UserError(f"--seed {options.seed}: the seeds of the runs follow it, up to {last}, "
                        f"and seeds are below {SEEDS}; name a smaller one")  # fmt: skip


def check_images(folder: Path, table: Path | None) -> None:
    """Check that a folder of images and the table of their labels exist.

    Raises:
        UserError: one of them does not.
    """
    require_folder(folder, "--images")
    if table is None and not (folder / TABLE).is_file():
        raise UserError(
            f"--images {folder}: there is no {TABLE} in it, the table of the labels of the images; "
            "name it with --table, with the columns path (from the folder) and label"
        )
    if table is not None and not table.is_file():
        raise UserError(
            f"--table {table}: there is no such file; it has the columns path (from the folder of "
            "--images) and label"
        )


def check_run(source: Source, given: Recipe, recipe: Recipe, data: ImageData) -> None:
    """Check that the run has what makes the images of a study.

    Args:
        given: the run's recipe.
        recipe: of all runs of the study.
        data: of the study.

    Raises:
        UserError: it has no such checkpoint or other classes, or has seen test images.
    """
    assert source.run is not None
    run_dir = RunDirectory.open(source.run)
    checkpoint.find(run_dir.checkpoints, source.checkpoint)
    task = recorded_task(run_dir, given)
    if task is not None and task.classes != data.task.classes:
        raise UserError(
            f"[data] classes: those of the study are {', '.join(data.task.classes)}, and the "
            f"generator of {source.run} makes {', '.join(task.classes)}; remove --set data.classes "
            "and what else changes them"
        )
    check_unseen(run_dir, recipe, data)


def check_validation(recipe: Recipe, options: Options, data: ImageData) -> None:
    """Check that there are validation images if something is chosen.

    Raises:
        UserError: there are none.
    """
    if "val" in data.splits or not chooses(options):
        return
    share = recipe.tables.data.validation
    remedy = "raise it" if share else "set a tenth of the patients aside with data.validation = 0.1"
    raise UserError(
        "a ratio and a filter are chosen on validation images, and there are none: "
        f"data.validation is {share:g}; {remedy}, before a generator is trained, or leave nothing "
        "to choose with --ratios 1 --filters none"
    )


def chooses(options: Options) -> bool:
    """Whether anything is chosen on validation images."""
    return options.filters != (NONE,) or len(options.ratios) > 1


def check_batch(recipe: Recipe) -> None:
    """Check that half a batch, which one arm has, is still a batch.

    Raises:
        UserError: it is not.
    """
    if (batch := recipe.tables.run.batch_size) < 4:
        raise UserError(f"[run] batch_size is {batch}; a study needs at least 4, since one arm has "
                        "half of it")  # fmt: skip


class _Guesses(RunEvaluation):
    """The evaluation of a classifier that guesses: it has the figures of any other."""

    @property
    def networks(self) -> Mapping[str, Any]:
        return {"classifier": None}

    @property
    def probs(self) -> np.ndarray:  # type: ignore[override]
        shape = len(self.test), len(self.task.classes)
        return np.random.default_rng(0).dirichlet(np.ones(shape[1]), shape[0])


def check_figure(recipe: Recipe, options: Options, data: ImageData) -> None:
    """Check that runs will have the figure that arms are compared by.

    Raises:
        UserError: the recipe does not measure it.
    """
    recipe = recipe.changed("evaluation.bootstrap=0")
    graph = graph_of(recipe, data.task, ())
    for split in ("test", "val") if chooses(options) else ("test",):
        images: ImageSplit = data.splits[split]
        guesses = _Guesses(recipe, graph, data.splits["train"], images, torch.device("cpu"), split)
        content, _, errors = evaluate(guesses, 0)
        known = [n for n, m in content["metrics"].items() if isinstance(m["value"], int | float)]
        # A metric that needs more than guesses may measure it.
        if options.metric not in known and not errors:
            raise UserError(
                f"--metric {options.metric}: the runs have no such figure of {guesses.kind} "
                f"images; {did_you_mean(options.metric, known)}"
            )


def check_amounts(
    real: Mapping[int | None, np.ndarray],
    there: np.ndarray,
    classes: Sequence[str],
    options: Options,
    batch: int,
    *,
    made: bool,
) -> None:
    """Check that there are enough generated images for every choice that the study can make.

    Args:
        real: numbers of real images, ``(K,)`` or ``(1,)`` each; see
            :class:`xraygan.study.pool.Pool`.
        there: numbers of generated images, as many.
        classes: names of the K classes.
        batch: images of a batch.
        made: whether a run's generator makes them, and --count limits them.

    Raises:
        UserError: there are too few.
    """
    of = [f" of class {name!r}" for name in classes] if len(there) > 1 else [""]
    for number, counts in real.items():
        point = describe_real(number)
        wanted = {ratio: np.round(counts * ratio) for ratio in options.ratios}
        for ratio, some in wanted.items():
            for i in np.flatnonzero((some < 1) & (counts > 0)):
                raise UserError(
                    f"--ratios {ratio:g}: {point}: of {int(counts[i])} real images{of[i]} this "
                    "makes no generated image; name a larger ratio, or more real images (--real)"
                )
        smallest = min(options.ratios)
        for i in np.flatnonzero(wanted[smallest] > there):
            head, remedy = "--ratios", "name a smaller ratio, or add images"
            if made:
                head, remedy = f"--count {options.count}", "raise --count, or name a smaller ratio"
            raise UserError(
                f"{head}: {point}: the smallest ratio, {smallest:g}, takes "
                f"{int(wanted[smallest][i]):,} generated images{of[i]}, and there are "
                f"{int(there[i]):,}; {remedy}"
            )
        possible = [ratio for ratio in options.ratios if (wanted[ratio] <= there).all()]
        _check_alone(point, int(wanted[max(possible)].sum()), max(possible), options, batch)
        if NONE not in options.filters:
            for ratio in possible:
                for i in np.flatnonzero(np.floor(there * max(options.keep)) < wanted[ratio]):
                    kept = math.floor(there[i] * max(options.keep))
                    raise UserError(
                        f"--keep {max(options.keep):g}: {point}: a filter keeps {kept:,} generated "
                        f"images{of[i]}, and ratio {ratio:g} takes {int(wanted[ratio][i]):,}; "
                        "raise --keep, name smaller ratios, or add none to --filters"
                    )


def _check_alone(point: str, images: int, ratio: float, options: Options, batch: int) -> None:
    """Check that generated images fill a batch where they are alone in it."""
    arms = [name for name in ("before", "alone") if name in options.arms]
    if arms and images < batch:
        raise UserError(
            f"--arms {','.join(arms)}: {point}: these learn from generated images alone, of which "
            f"ratio {ratio:g} takes {images}, fewer than [run] batch_size = {batch}; name a larger "
            "ratio, leave them out, or lower the batch with --set run.batch_size=N"
        )
