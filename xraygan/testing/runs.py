"""Checks of parts outside of the training step: datasets, metrics, trackers."""

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

from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.data.index import read_index, read_notes
from xraygan.errors import UserError
from xraygan.evaluation.evaluation import RunEvaluation
from xraygan.graph.graph import TrainingGraph
from xraygan.parts.contracts import measurements
from xraygan.parts.evaluation import Measurement
from xraygan.parts.interfaces import Dataset, Metric, Tracker
from xraygan.parts.options import takes_positional
from xraygan.parts.part_config import PartConfig
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

    Its table has the columns, types and values that the core expects, and is the same each time. No
    image occurs twice, and no patient is in several splits. Images are decoded to the requested
    size, and to the same pixels each time. A missing root folder and a missing image are refused
    with a :class:`xraygan.UserError`.

    Args:
        root: the folder of the data; None for a dataset that needs none.
        images: number of images to decode.
        options: the dataset's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Dataset", dataset, options)
    with checks("builds"):
        part = checks.build(None if root is None else Path(root))
        table = part.index()
    checks.stop_if_failed()
    _check_classes_and_columns(checks, part.classes, table)
    checks.stop_if_failed()
    _check_table(checks, table, part.classes, exclusive=part.exclusive)
    if not checks.failures:
        with checks("accepted"):  # by the checks of a run
            read_index(checked("dataset"), part)
            read_notes(checked("dataset"), part)
    with checks("deterministic"):
        again = checks.build(None if root is None else Path(root)).index()
        expect(table.reset_index(drop=True).equals(again.reset_index(drop=True)), "index() varies")
    _check_images(checks, part, table["path"], images)
    if root is not None and takes_positional(dataset):
        with checks("missing root"):
            no_root = Path(root) / "no such folder"
            _expect_refused(lambda: dataset(no_root, **options).index(), f"a root {no_root}")
        with checks("missing image"):
            _expect_refused(lambda: part.load("no such image.png", 16), "a missing image")
    return checks.end()


def _check_classes_and_columns(checks: Checks, classes: Any, table: Any) -> None:
    with checks("classes"):
        expect(isinstance(classes, tuple) and bool(classes), f"classes are {classes!r}")
        expect(len(set(classes)) == len(classes), "a class occurs twice in classes")
    with checks("columns"):
        expect(isinstance(table, pd.DataFrame), f"index() returned {type(table).__name__}")
        absent = [name for name in COLUMNS if name not in table]
        expect(not absent, f"index() lacks the columns {', '.join(absent)}")
        expect(len(table) > 0, "index() has no rows")


def _check_images(checks: Checks, part: Dataset, paths: pd.Series, images: int) -> None:
    with checks("images"):
        for path in paths.iloc[:: max(1, len(paths) // images)][:images]:
            for size in (16, 64):
                _expect_image(part.load(path, size), path, size)
            same = np.array_equal(part.load(path, 64), part.load(path, 64))
            expect(same, f"load({path!r}, 64) varies")
    with checks("identity"):
        path = paths.iloc[0]
        identity = part.identity(path)
        expect(isinstance(identity, str), f"identity({path!r}) returned {type(identity).__name__}")
        expect(identity == part.identity(path), f"identity({path!r}) varies")


def _check_table(
    checks: Checks, table: pd.DataFrame, classes: tuple[str, ...], *, exclusive: bool
) -> None:
    def fail_unless(valid: Any, fault: str) -> None:
        invalid = np.flatnonzero(~np.asarray(valid, dtype=bool))
        if len(invalid):
            path = table.iloc[invalid[0]]["path"]
            expect(False, f"row {invalid[0]} ({path!r}) {fault}; {len(invalid)} rows in total")

    with checks("paths"):
        paths = table["path"]
        fail_unless([isinstance(p, str) and p for p in paths], "has a path that is not a string")
        fail_unless(
            [_is_below(p) for p in paths], "has a path that is not a relative path below the root"
        )
        fail_unless(~paths.duplicated(), "occurs twice")
    with checks("labels"):
        known = set(classes)
        labels = list(table["labels"])
        fail_unless([isinstance(v, tuple) for v in labels], "has labels that are not a tuple")
        fail_unless([set(v) <= known for v in labels], f"has a label that is not one of {classes}")
        if exclusive:
            fail_unless(
                [len(v) == 1 for v in labels], "does not have exactly one of the exclusive classes"
            )
    with checks("split"):
        fail_unless(
            table["split"].isin(["train", "val", "test"]),
            "has a split that is not train, val or test",
        )
        patients = table["patient"]
        fail_unless([isinstance(p, str) and bool(p) for p in patients], "has no patient")
        sides = table.groupby("patient")["split"].nunique()
        shared = list(sides.index[sides > 1])
        expect(
            not shared, f"{len(shared)} patients are in several splits, {shared[:3]} for example"
        )
    with checks("metadata"):
        fail_unless(table["sex"].isin(["M", "F", ""]), "has a sex that is not M, F or empty")
        ages = pd.to_numeric(table["age"], errors="coerce")
        fail_unless(ages.notna() | table["age"].isna(), "has an age that is not a number")
        fail_unless(ages.isna() | ages.between(0, 130), "has an age outside 0 to 130 years")


def _is_below(path: str) -> bool:
    return not path.startswith("/") and "\\" not in path and ".." not in path.split("/")


def _expect_image(image: Any, path: str, size: int) -> None:
    expect(isinstance(image, np.ndarray), f"load({path!r}) returned {type(image).__name__}")
    valid = image.shape == (size, size) and image.dtype == np.uint8
    expect(valid, f"load({path!r}, {size}) returned {image.dtype} of shape {image.shape}")


def _expect_refused(call: Any, cause: str) -> None:
    try:
        call()
    except UserError:
        return
    except Exception as error:
        expect(False, f"{cause} raises {type(error).__name__}; expected xraygan.UserError")
    expect(False, f"{cause} is not refused; expected xraygan.UserError")


def check_metric(metric: type[Metric], **options: Any) -> list[str]:
    """Check a metric.

    It measures a run of small random networks, with the same result each time, as named
    :class:`xraygan.Measurement` whose intervals include their values. It does not fail for a run
    without a generator or without a classifier.

    Args:
        options: the metric's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Metric", metric, options)
    with checks("builds"):
        part = checks.build()
    checks.stop_if_failed()
    with checks("measures"):
        result = part.compute(evaluation())
        expect(isinstance(result, Mapping), f"it returned {type(result).__name__}, not a mapping")
        expect(bool(result), "it measured nothing for a run that has every network")
        for name, measured in result.items():
            _expect_measurement(name, measured)
        measurements(result, BOOTSTRAP)
    checks.stop_if_failed()
    with checks("deterministic"):
        first, second = (
            {name: (m.value, m.interval) for name, m in part.compute(evaluation()).items()}
            for _ in range(2)
        )
        expect(repr(first) == repr(second), "the same run was measured differently a second time")
    for absent in ("generator", "classifier"):
        with checks(f"no {absent}"):
            for name, measured in part.compute(evaluation(without=absent)).items():
                _expect_measurement(name, measured)
    return checks.end()


def _expect_measurement(name: Any, measured: Any) -> None:
    expect(isinstance(name, str) and bool(name), f"a measurement is named {name!r}")
    kind = type(measured).__name__
    expect(isinstance(measured, Measurement), f"{name} is {kind}, not a Measurement")
    expect(isinstance(measured.n, int) and measured.n >= 0, f"{name}: n is {measured.n!r}")
    if measured.value is None:
        expect(bool(measured.note), f"{name} has no value and no note with the reason")
    elif not isinstance(measured.value, list):
        value = measured.value
        expect(isinstance(value, float | int), f"{name} is {type(value).__name__}, not a number")
        if measured.interval is not None and not math.isnan(value):
            low, high = measured.interval
            expect(low <= high, f"{name}: the ends of its interval {low} to {high} are swapped")
            inside = low - 1e-9 <= value <= high + 1e-9
            expect(inside, f"{name}: {value} is not in its interval {low} to {high}")


def evaluation(*, without: str = "") -> RunEvaluation:
    """An evaluation of untrained stand-in networks on random images."""
    bench = Bench()
    networks = {name: network for name, network in bench.networks.items() if name != without}
    tables = schema.RecipeConfig(
        run=schema.Run(steps=1),
        data=schema.Data(plugin="stand-in", image_size=SIZE),
        evaluation=schema.Evaluation(generated=24, bootstrap=BOOTSTRAP, batch_size=16),
    )
    # Needed by metrics that build another classifier like the run's.
    kind = Part("classifier", "stand-in", "xraygan", "", StandInClassifier)
    choice = PartConfig("classifier", kind, schema.Network(plugin="stand-in"), {})
    recipe = Recipe(Path("stand-in.toml"), tables, {"classifier": choice})
    graph = TrainingGraph(bench.task, networks, {}, [], {})
    graph.extractors = bench.extractors
    train, test, validation = (_split(bench, n, seed) for seed, n in enumerate((40, 36, 32)))
    device = torch.device("cpu")
    return RunEvaluation(recipe, graph, train, test, device, validation=lambda: validation)


def _split(bench: Bench, count: int, seed: int) -> ImageSplit:
    source = rng("cpu", seed, "testing split")
    pixels = torch.randint(256, (count, SIZE, SIZE), generator=source, dtype=torch.uint8)
    k = len(bench.task.classes)
    return ImageSplit(
        images=StoredImages(pixels, torch.arange(count)),
        label_matrix=np.eye(k, dtype=np.uint8)[np.arange(count) % k],
        patients=np.array([f"{seed}-{i // 2}" for i in range(count)]),
        paths=[f"{i}.png" for i in range(count)],
        metadata={
            "age": np.full(count, 50.0),
            "sex": np.arange(count) % 2.0,
            "view": np.full(count, math.nan),
        },
    )


def check_tracker(tracker: type[Tracker], **options: Any) -> list[str]:
    """Check a tracker.

    It accepts the values and the samples of a short run, and of a resumed run, in a temporary run
    directory, and changes no file of the run.

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
        figures = '{"metrics": {"accuracy": {"value": 0.5, "n": 36, "interval": null, "note": ""}}}'
        (run_dir / "evaluation.json").write_text(figures)
        before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        for name, start in (("a run", 0), ("a resumed run", 2)):
            with checks(name):
                part = checks.build(run_dir)
                part.begin(start)
                for step in range(start + 1, start + 4):
                    part.log(step, {"generator": 1.0 / step, "images_per_second": 10.0})
                    part.image(step, grid)
                part.log(start + 3, {"a term that begins late": 1.0, "generator": math.nan})
                part.close()
        with checks("leaves the run"):
            changed = [p.name for p, data in before.items() if p.read_bytes() != data]
            expect(not changed, f"it changed {', '.join(changed)}")
    return checks.end()
