"""A utility study from start to verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xraygan.data.datamodule import ImageData
from xraygan.data.generated import read_listed
from xraygan.errors import UserError
from xraygan.evaluation.leakage import check_unseen
from xraygan.recipe.files import parse_override
from xraygan.recipe.loading import Recipe, load
from xraygan.recipe.training_images import GeneratedImages
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import restore_session
from xraygan.sweep.plan import Run
from xraygan.utils.atomic_files import write_json, write_together
from xraygan.utils.progress import Display

from .audited import audit_study, evaluation_of, learned_from
from .choice import Choice, Chooser, Execute, require_done
from .design import (
    AGAIN,
    ALONE,
    AUGMENTED,
    MIXED,
    OPTIONAL,
    REAL,
    Arm,
    Design,
    Images,
    Options,
    base_recipe,
    describe_real,
)
from .filters import NONE, OF_RUN, FilteredImages
from .pool import GENERATED, TABLE, Pool, generate_pool, needed_images, real_images
from .record import Source, claim, summary
from .verdict import outcomes

#: keys of --set that also apply to the run whose generator is studied
_RUN_KEYS = ("data.root", "data.cache", "run.device")

Object = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        folder: its folder, with ``audit.png``.
        content: of ``utility.json``.
        runs: those that were tested.
    """

    folder: Path
    content: Object
    runs: list[Run]


def run_study(
    source: Source,
    options: Options,
    out: Path,
    display: Display,
    execute: Execute,
    command: str = "",
) -> Study:
    """Run a study, or what is left of it, and write ``utility.json`` and the audit.

    Args:
        out: the study's folder.
        execute: executes the runs of a sweep.
        command: the command that repeats the study.

    Raises:
        Interrupted: SIGINT or SIGTERM was received; the runs have saved their last step.
        UserError: an option, the run, the folder or the data is at fault, or a run failed.
    """
    given = load(source.recipe) if source.run is None else _recipe_of(source.run, options)
    recipe = base_recipe(given, options)
    data, real = real_images(recipe, options.real, display)
    _check_validation(recipe, options, data)
    _check_batch(recipe, real)
    if source.run is not None:
        check_unseen(RunDirectory.open(source.run), recipe, data)
    root = out / GENERATED if source.folder is None else source.folder
    design = Design(recipe, options, out, root.resolve())
    claim(design, source, None if source.run is None else given)
    table = source.table or root / TABLE
    if source.run is not None:
        _check_count(real, options)
        keep = min(options.keep) if options.filters != (NONE,) else 1.0
        needed = needed_images(real, options.ratios, keep, options.count)
        _generate(source, options, root, needed, display)
    config = GeneratedImages(table=str(table.resolve()), root=str(root.resolve()))
    listed = read_listed(recipe, config, data.task, data.task.classes, display.progress)
    pool = Pool(root, table.resolve(), listed.split, real)
    # Of a folder nothing is known: it is compared with the training images of the recipe.
    training = data if source.run is None else learned_from(given, recipe, display.progress)
    evaluation = evaluation_of(recipe, options, pool.split, data, training)
    audit, closest = audit_study(evaluation, options, display)
    write_json(out / "audit.json", audit)
    write_together({out / "audit.png": closest})
    filtered = FilteredImages(design, pool, evaluation, display)
    choices = Chooser(design, pool, filtered, display, execute).choose()
    runs = _test(design, pool, filtered, choices, execute)
    chosen = {n: choice.use for n, choice in choices.items()}
    found = outcomes(runs, list(choices), chosen, options.metric)
    content = summary(design, source, pool, data, training, audit, choices, found, command)
    write_json(out / "utility.json", content)
    return Study(out, content, runs)


# -- checks ----------------------------------------------------------------------------------------


def _recipe_of(run: Path, options: Options) -> Recipe:
    run_dir = RunDirectory.open(run)
    recipe = load(run_dir.recipe, files=False)
    if "generator" not in recipe.choices:
        raise UserError(f"{run}: the run has no generator; name a run that trained one")
    return load(run_dir.recipe, _for_run(options), files=False)


def _for_run(options: Options) -> list[str]:
    """The overrides that also apply to the run whose generator is studied."""
    return [o for o in options.overrides if ".".join(parse_override(o)[0]) in _RUN_KEYS]


def _check_validation(recipe: Recipe, options: Options, data: ImageData) -> None:
    """Check that there are validation images if something is chosen.

    Raises:
        UserError: there are none.
    """
    if "val" in data.splits or (options.filters == (NONE,) and len(options.ratios) == 1):
        return
    share = recipe.tables.data.validation
    remedy = "raise it" if share else "set a tenth of the patients aside with data.validation = 0.1"
    raise UserError(
        "a ratio and a filter are chosen on validation images, and there are none: "
        f"data.validation is {share:g}; {remedy}, before a generator is trained, or leave nothing "
        "to choose with --ratios 1 --filters none"
    )


def _check_batch(recipe: Recipe, real: Mapping[int | None, np.ndarray]) -> None:
    batch = recipe.tables.run.batch_size
    if batch < 4:
        raise UserError(f"[run] batch_size is {batch}; a study needs at least 4, since one arm has "
                        "half of it")  # fmt: skip
    for number, counts in real.items():
        if counts.sum() < batch:
            raise UserError(
                f"--real {number}: {int(counts.sum())} images in all, fewer than "
                f"[run] batch_size = {batch}; name more images, or set a smaller batch with --set "
                "run.batch_size=N"
            )


def _check_count(real: Mapping[int | None, np.ndarray], options: Options) -> None:
    """Check that --count allows the images of the smallest ratio, before any is generated."""
    for number, counts in real.items():
        needed = round(float(counts.max()) * min(options.ratios))
        if needed > options.count:
            raise UserError(
                f"--count {options.count}: {describe_real(number)}: the smallest ratio, "
                f"{min(options.ratios):g}, takes {needed:,} generated images"
                f"{' of one class' if len(counts) > 1 else ''}; raise --count, or name a smaller "
                "ratio"
            )


# -- generated images ------------------------------------------------------------------------------


def _generate(
    source: Source, options: Options, root: Path, needed: np.ndarray, display: Display
) -> None:
    assert source.run is not None
    session, _, step = restore_session(
        source.run, _for_run(options), display, source.checkpoint, measure=False
    )
    if not session.graph.task.exclusive:
        needed = needed[:1]
    generate_pool(session, step, root, needed, options.seed, display)


# -- arms and results ------------------------------------------------------------------------------


def _test(
    design: Design,
    pool: Pool,
    filtered: FilteredImages,
    choices: Mapping[int | None, Choice],
    execute: Execute,
) -> list[Run]:
    """The runs that are tested, all complete.

    Raises:
        UserError: a run failed.
    """

    def run(arms: Mapping[int | None, list[Arm]]) -> list[Run]:
        runs = execute(design.sweep(arms, choose=False), design.stage(choose=False))
        require_done(runs)
        return runs

    first = [n for n, choice in choices.items() if _images(choice).filter in OF_RUN]
    if first:  # their classifiers say which images are kept
        run({n: [Arm(AGAIN)] for n in first})
    mixed = {
        n: filtered.keep(images, n, choose=False) if images.filter else images
        for n, choice in choices.items()
        for images in (_images(choice),)
    }
    return run(
        {
            n: _arms(replace(choice, mixed=Arm(MIXED, mixed[n])), pool, design.options)
            for n, choice in choices.items()
        }
    )


def _images(choice: Choice) -> Images:
    assert choice.mixed.images is not None
    return choice.mixed.images


def _arms(choice: Choice, pool: Pool, options: Options) -> list[Arm]:
    """The arms that are tested with one number of real images."""
    before = choice.before.images
    assert before is not None
    alone = Arm(ALONE, Images(pool.table, before.ratio), "instead")
    every = [Arm(REAL), Arm(AGAIN), Arm(AUGMENTED), choice.mixed, choice.before, alone]
    left_out = {*OPTIONAL.values()} - {OPTIONAL[name] for name in options.arms}
    return [arm for arm in every if arm.name not in left_out]
