"""Checks of what surrounds a training step: datasets, metrics, trackers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from xraygan.data.datamodule import ImageSplit, StoredImages
from xraygan.data.index import read_index, read_notes
from xraygan.errors import UserError
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.choice import PartConfig
from xraygan.parts.contracts import measurements
from xraygan.parts.evaluation import Measurement
from xraygan.parts.interfaces import Dataset, Metric, Tracker
from xraygan.parts.options import takes_positional
from xraygan.parts.registry import Part
from xraygan.recipe import schema
from xraygan.recipe.loading import Recipe
from xraygan.utils.seeding import rng

from .checks import Checks, expect
from .stand_ins import SIZE, Bench, StandInClassifier, checked

BOOTSTRAP = 50
COLUMNS = ("path", "labels", "patient", "split", "age", "sex", "view")


def check_dataset(
    dataset: type[Dataset], root: str | Path | None = None, *, images: int = 5, **options: Any
) -> list[str]:
    """Check a dataset.

    Its table has the columns, types and values that the core expects, the same each time; no image
    is listed twice, and no patient is in two splits; images are decoded to the requested size, the
    same each time; a missing root folder and a missing image raise :class:`xraygan.UserError`.

    Args:
        root: the data's folder; None for a dataset that needs none.
        images: how many images to decode.
        options: the dataset's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Dataset", dataset, options)
    folder = None if root is None else Path(root)
    with checks("builds"):
        built = checks.build(folder)
        table = built.index()
    checks.stop_if_failed()
    _check_columns(checks, built, table)
    _check_table(checks, table, built.classes, exclusive=built.exclusive)
    if not checks.failures:
        with checks("accepted"):  # by what a run holds it to
            read_index(checked("dataset"), built)
            read_notes(checked("dataset"), built)
    with checks("deterministic"):
        again = checks.build(folder).index()
        expect(table.reset_index(drop=True).equals(again.reset_index(drop=True)), "index() varies")
    _check_images(checks, built, table, images)
    if folder is not None and takes_positional(dataset):
        missing = folder / "no such folder"
        with checks("missing root"):
            _expect_refused(lambda: dataset(missing, **options).index(), f"a root {missing}")
        with checks("missing image"):
            _expect_refused(lambda: built.load("no such image.png", 16), "a missing image file")
    return checks.end()


def _check_images(checks: Checks, dataset: Dataset, table: pd.DataFrame, count: int) -> None:
    """Decode ``count`` images, spread over the table."""
    with checks("images"):
        for path in table["path"].iloc[:: max(1, len(table) // count)][:count]:
            for size in (16, 64):
                _expect_image(dataset.load(path, size), path, size)
            same = np.array_equal(dataset.load(path, 64), dataset.load(path, 64))
            expect(same, f"load({path!r}, 64) varies")
    with checks("identity"):
        path = table["path"].iloc[0]
        identity = dataset.identity(path)
        expect(isinstance(identity, str), f"identity({path!r}) returned {type(identity).__name__}")
        expect(identity == dataset.identity(path), f"identity({path!r}) varies")


def _check_columns(checks: Checks, dataset: Dataset, table: pd.DataFrame) -> None:
    with checks("classes"):
        classes = dataset.classes
        expect(isinstance(classes, tuple) and bool(classes), f"classes are {classes!r}")
        expect(len(set(classes)) == len(classes), "a class stands twice in classes")
    with checks("columns"):
        expect(isinstance(table, pd.DataFrame), f"index() returned {type(table).__name__}")
        absent = [name for name in COLUMNS if name not in table]
        expect(not absent, f"index() lacks the columns {', '.join(absent)}")
        expect(len(table) > 0, "index() has no rows")
    checks.stop_if_failed()


def _check_table(
    checks: Checks, table: pd.DataFrame, classes: tuple[str, ...], *, exclusive: bool
) -> None:
    def wrong(what: str, good: Any) -> None:
        bad = np.flatnonzero(~np.asarray(good, dtype=bool))
        if len(bad):
            row = table.iloc[bad[0]]
            expect(False, f"row {bad[0]} ({row['path']!r}) {what}; {len(bad)} rows in all")

    with checks("paths"):
        paths = table["path"]
        wrong("has a path that is no string", [isinstance(p, str) and p for p in paths])
        wrong("has a path that is not below the root, with /", [_is_below(p) for p in paths])
        wrong("is there twice", ~paths.duplicated())
    with checks("labels"):
        known = set(classes)
        wrong("has labels that are no tuple", [isinstance(v, tuple) for v in table["labels"]])
        wrong(f"has a label that is none of {classes}", [set(v) <= known for v in table["labels"]])
        if exclusive:
            wrong("has not one label, of exclusive classes", [len(v) == 1 for v in table["labels"]])
    with checks("split"):
        wrong("has a split that is none of train, val, test",
              table["split"].isin(["train", "val", "test"]))  # fmt: skip
        wrong("has no patient", [isinstance(p, str) and bool(p) for p in table["patient"]])
        sides = table.groupby("patient")["split"].nunique()
        shared = list(sides.index[sides > 1])
        expect(
            not shared, f"{len(shared)} patients are in several splits, {shared[:3]} for example"
        )
    with checks("metadata"):
        wrong("has a sex that is none of M, F and empty", table["sex"].isin(["M", "F", ""]))
        ages = pd.to_numeric(table["age"], errors="coerce")
        wrong("has an age that is no number", ages.notna() | table["age"].isna())
        wrong("has an age outside 0 to 130 years", ages.isna() | ages.between(0, 130))


def _is_below(path: str) -> bool:
    return not path.startswith("/") and "\\" not in path and ".." not in path.split("/")


def _expect_image(image: Any, path: str, size: int) -> None:
    expect(isinstance(image, np.ndarray), f"load({path!r}) returned {type(image).__name__}")
    good = image.shape == (size, size) and image.dtype == np.uint8
    expect(good, f"load({path!r}, {size}) returned {image.dtype} of shape {image.shape}")


def _expect_refused(call: Any, what: str) -> None:
    try:
        call()
    except UserError:
        return
    except Exception as error:
        expect(False, f"{what} raises {type(error).__name__}; expected xraygan.UserError")
    expect(False, f"{what} is not refused; expected xraygan.UserError")


def check_metric(metric: type[Metric], **options: Any) -> list[str]:
    """Check a metric.

    That it measures a run of small random networks, the same each time, as named
    :class:`xraygan.Measurement` whose intervals hold their values; and that a run without a
    generator, and one without a classifier, is no reason to fail.

    Args:
        options: the metric's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Metric", metric, options)
    with checks("builds"):
        made = checks.build()
    checks.stop_if_failed()
    with checks("measures"):
        found = made.compute(evaluation())
        expect(isinstance(found, Mapping), f"it returned {type(found).__name__}, not a mapping")
        expect(bool(found), "it measured nothing of a run that has every network")
        for name, measured in found.items():
            _expect_measurement(name, measured)
        measurements(found, BOOTSTRAP)
    checks.stop_if_failed()
    with checks("deterministic"):
        first, second = (
            {name: (m.value, m.interval) for name, m in made.compute(evaluation()).items()}
            for _ in range(2)
        )
        expect(repr(first) == repr(second), "the same run was measured differently a second time")
    for absent in ("generator", "classifier"):
        with checks(f"no {absent}"):
            for name, measured in made.compute(evaluation(without=absent)).items():
                _expect_measurement(name, measured)
    return checks.end()


def _expect_measurement(name: Any, measured: Any) -> None:
    expect(isinstance(name, str) and bool(name), f"a figure is named {name!r}")
    given = type(measured).__name__
    expect(isinstance(measured, Measurement), f"{name} is {given}, not a Measurement")
    expect(isinstance(measured.n, int) and measured.n >= 0, f"{name}: n is {measured.n!r}")
    if measured.value is None:
        expect(bool(measured.note), f"{name} has no value, and no note that says why")
    elif not isinstance(measured.value, list):
        value = measured.value
        expect(isinstance(value, float | int), f"{name} is {type(value).__name__}, not a number")
        if measured.interval is not None and not math.isnan(value):
            low, high = measured.interval
            expect(low <= high, f"{name}: its interval {low} to {high} is upside down")
            inside = low - 1e-9 <= value <= high + 1e-9
            expect(inside, f"{name}: {value} is not in its interval {low} to {high}")


def evaluation(*, without: str = "") -> RunEvaluation:
    """What metrics measure, of untrained stand-in networks and random images."""
    bench = Bench()
    networks = {name: network for name, network in bench.networks.items() if name != without}
    tables = schema.RecipeConfig(
        run=schema.Run(steps=1),
        data=schema.Data(plugin="stand-in", image_size=SIZE),
        evaluation=schema.Evaluation(generated=24, bootstrap=BOOTSTRAP, batch_size=16),
    )
    # A metric may build another classifier of the run's kind.
    kind = Part("classifier", "stand-in", "xraygan", "", StandInClassifier)
    choice = PartConfig("classifier", kind, schema.Network(plugin="stand-in"), {})
    recipe = Recipe(Path("stand-in.toml"), tables, {"classifier": choice})
    graph = TrainingGraph(bench.task, networks, {}, [], {})
    graph.extractors = bench.extractors
    train, test = _split(bench, 40, seed=0), _split(bench, 36, seed=1)
    return RunEvaluation(recipe, graph, train, test, torch.device("cpu"))


def _split(bench: Bench, count: int, seed: int) -> ImageSplit:
    source = rng("cpu", seed, "testing split")
    pixels = torch.randint(256, (count, SIZE, SIZE), generator=source, dtype=torch.uint8)
    k = len(bench.task.classes)
    return ImageSplit(
        images=StoredImages(pixels, torch.arange(count)),
        label_matrix=np.eye(k, dtype=np.uint8)[np.arange(count) % k],
        patients=np.array([f"{seed}-{i // 2}" for i in range(count)]),
        paths=[f"{i}.png" for i in range(count)],
        metadata={"age": np.full(count, 50.0), "sex": np.arange(count) % 2.0},
    )


def check_tracker(tracker: type[Tracker], **options: Any) -> list[str]:
    """Check a tracker.

    That it takes the numbers and the samples of a short run in a temporary run directory, one that
    is resumed too, and changes no file of it that is not its own.

    Args:
        options: the tracker's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Tracker", tracker, options)
    with TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / "samples").mkdir()
        grid = run_dir / "samples" / "step-00000002.png"
        Image.new("L", (64, 32)).save(grid)
        (run_dir / "recipe.toml").write_text('[run]\nname = "stand-in"\nsteps = 4\n')
        given = '{"metrics": {"accuracy": {"value": 0.5, "n": 36, "interval": null, "note": ""}}}'
        (run_dir / "evaluation.json").write_text(given)
        before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        for name, start in (("a run", 0), ("a resumed run", 2)):
            with checks(name):
                made = checks.build(run_dir)
                made.begin(start)
                for step in range(start + 1, start + 4):
                    made.log(step, {"generator": 1.0 / step, "images_per_second": 10.0})
                    made.image(step, grid)
                made.log(start + 3, {"a term that begins late": 1.0, "generator": math.nan})
                made.close()
        with checks("leaves the run"):
            changed = [p.name for p, data in before.items() if p.read_bytes() != data]
            expect(not changed, f"it changed {', '.join(changed)}")
    return checks.end()
