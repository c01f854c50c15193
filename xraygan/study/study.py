"""A utility study from start to verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xraygan.data.generated import ListedImages, read_listed, refuse_measured
from xraygan.errors import UserError
from xraygan.recipe.files import parse_override
from xraygan.recipe.loading import Recipe, load
from xraygan.recipe.training_images import GeneratedImages
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import restore_session
from xraygan.sweep.plan import Run
from xraygan.utils.atomic_files import write_json, write_together
from xraygan.utils.progress import Display

from .audited import audit_study, evaluation_of, learned_from, measuring
from .checks import (
    check_amounts,
    check_batch,
    check_figure,
    check_images,
    check_options,
    check_run,
    check_validation,
)
from .choice import Choice, Chooser, Execute, require_done
from .claim import check_folder, claim
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
)
from .filters import NONE, OF_RUN, FilteredImages
from .pool import GENERATED, TABLE, Pool, generate_pool, needed_images, real_images
from .record import Source, summary
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
    check_options(options)
    out = out.resolve()
    check_folder(out)
    if source.folder is not None:
        check_images(source.folder, source.table)
    given = load(source.recipe) if source.run is None else _recipe_of(source.run, options)
    recipe = base_recipe(given, options)
    check_batch(recipe)
    data, real = real_images(recipe, options.real, display)
    check_validation(recipe, options, data)
    check_figure(recipe, options, data)
    compared = measuring(recipe, options, data.task)
    root = (out / GENERATED if source.folder is None else source.folder).resolve()
    design = Design(recipe, options, out, root)
    digests = {"the real images": data.fingerprint}
    amounts = partial(check_amounts, real, classes=data.task.classes, options=options,
                      batch=recipe.tables.run.batch_size)  # fmt: skip
    if source.run is not None:
        check_run(source, given, recipe, data)
        keep = min(options.keep) if options.filters != (NONE,) else 1.0
        needed = needed_images(real, options.ratios, keep, options.count)
        amounts(needed, made=True)
        claim(design, source, given, digests)
        _generate(source, options, root, needed, display)
    table = (source.table or root / TABLE).resolve()
    config = GeneratedImages(table=str(table), root=str(root))
    listed = read_listed(recipe, config, data.task, data.task.classes, display.progress)
    refuse_measured(config, listed, data.measured_contents())
    pool = Pool(root, table, listed.split, real)
    amounts(pool.counts, made=source.run is not None)
    claim(design, source, None if source.run is None else given, digests | _digests(listed))
    # Of a folder nothing is known: it is compared with the training images of the recipe.
    training = data if source.run is None else learned_from(given, recipe, display.progress)
    evaluation = evaluation_of(*compared, pool.split, data, training)
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


# -- the run ---------------------------------------------------------------------------------------


def _recipe_of(run: Path, options: Options) -> Recipe:
    run_dir = RunDirectory.open(run)
    recipe = load(run_dir.recipe, files=False)
    if "generator" not in recipe.choices:
        raise UserError(f"{run}: the run has no generator; name a run that trained one")
    return load(run_dir.recipe, _for_run(options), files=False)


def _for_run(options: Options) -> list[str]:
    """The overrides that also apply to the run whose generator is studied."""
    return [o for o in options.overrides if ".".join(parse_override(o)[0]) in _RUN_KEYS]


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


def _digests(listed: ListedImages) -> dict[str, str]:
    """What identifies generated images, by what messages call them."""
    rows = json.dumps([listed.split.paths, listed.split.label_matrix.tolist()])
    return {
        "the generated images": listed.sha256,
        "the labels of the generated images": hashlib.sha256(rows.encode()).hexdigest(),
    }


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
    arms = {}
    for n, choice in choices.items():
        if (images := _images(choice)).filter:
            kept = filtered.keep(images, n, choose=False)
            choice = replace(choice, mixed=Arm(MIXED, kept))
        arms[n] = tested_arms(choice, pool, design.options)
    return run(arms)


def _images(choice: Choice) -> Images:
    assert choice.mixed.images is not None
    return choice.mixed.images


def tested_arms(choice: Choice, pool: Pool, options: Options) -> list[Arm]:
    """The arms that are tested with one number of real images."""
    before = choice.before.images
    assert before is not None
    alone = Arm(ALONE, Images(pool.table, before.ratio), "instead")
    every = [Arm(REAL), Arm(AGAIN), Arm(AUGMENTED), choice.mixed, choice.before, alone]
    left_out = {*OPTIONAL.values()} - {OPTIONAL[name] for name in options.arms}
    return [arm for arm in every if arm.name not in left_out]
