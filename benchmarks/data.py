"""How fast images are decoded, a run starts from its store, and batches are drawn."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from common import Report, benchmark, in_turn, median, seconds_of
from PIL import Image
from rich.console import Console

from xraygan.data.batches import Batches
from xraygan.data.datamodule import ImageData, prepare
from xraygan.data.decode import processors
from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.data.images import read_grey
from xraygan.parts.registry import installed
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.progress import Display

ROOT = Path(__file__).parents[2] / "shared" / "data"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)
LINKS = 30_000  # names of one file; file systems allow no more than about 65,000


@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT,
    help="The folder that holds zhang/, the Zhang Lab's images.",
)
@benchmark
def main(fast: bool, root: Path) -> Report:
    """Decoding, starting from the store, and drawing batches."""
    report = Report("Data")
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        if (root / "zhang").is_dir():
            jpegs = few_of(root / "zhang", run_dir / "zhang") if fast else root / "zhang"
            decoding(report, "Zhang Lab JPEGs", "cgan_zhang", jpegs, run_dir, fast)
        else:
            report.notes.append(f"left out: the Zhang Lab's images are not at {root / 'zhang'}")
        pixels = 256 if fast else 1024
        radiographs = draw_radiographs(run_dir / "radiographs", 80 if fast else 256, pixels)
        name = f"{pixels} x {pixels} PNGs"
        decoding(report, name, "baseline_resnet50", radiographs, run_dir, fast)
        rows = 2_000 if fast else 112_120
        data = starting(report, draw_layout(run_dir / "layout", rows), run_dir, fast)
        drawing(report, data, fast)
        waiting(report, run_dir, fast)
    return report


# -- (a) decoding ----------------------------------------------------------------------------------


def decoding(
    report: Report, name: str, recipe: str, root: Path, run_dir: Path, fast: bool, size: int = 128
) -> None:
    """Images a second of `data prepare` against a bare loop of Pillow in one process.

    And against a bare loop of the decoder that it uses itself.
    """
    plugin = "data.plugin=zhang" if recipe == "cgan_zhang" else "data.plugin=chestxray14"
    classes = 'data.classes=["NORMAL", "PNEUMONIA"]' if "zhang" in recipe else "data.classes=all"
    sets = [f"data.root={root}", f"data.image_size={size}", plugin, classes, "run.batch_size=2"]
    files = sorted(p for p in root.rglob("*.*") if p.suffix in (".png", ".jpeg"))
    few = files[:: max(1, len(files) // 1000)]
    cores = processors()
    count = 0

    def anew() -> float:
        nonlocal count
        count += 1
        with tempfile.TemporaryDirectory(dir=run_dir) as cache:
            store = prepare(load(recipe, [*sets, f"data.cache={cache}"])).store
        return len(store.pixels) / (store.seconds or float("nan"))

    figures = in_turn(
        {
            "raw": lambda: len(few) / seconds_of(lambda: raw_loop(few, size)),
            "alone": lambda: len(few) / seconds_of(lambda: [read_grey(f, size) for f in few]),
            "cores": lambda: len(files) / seconds_of(lambda: on_all(cores, files, size)),
            "prepare": anew,
        },
        1 if fast else 5,
    )
    raw, alone, every, ours = (median(figures[key]) for key in figures)
    report.add(f"{name}: Pillow alone, one process", raw, "images/s")
    times = f"one process x {cores}"
    report.add(f"{name}: Pillow alone, {cores} at once", every, "images/s", raw * cores, times)
    report.add(f"{name}: data prepare", ours, "images/s", raw * cores, times)
    report.add(f"{name}: read_grey alone, one process", alone, "images/s", raw, "Pillow alone")
    report.add(f"{name}: data prepare", ours, "images/s", alone * cores, f"read_grey, {times}")


def raw_loop(files: Sequence[Path], size: int) -> None:
    """Decode and resize files with Pillow, with nothing around it."""
    for file in files:
        with Image.open(file) as image:
            image.draft("L", (2 * size, 2 * size))
            grey = image.convert("L")
        np.array(grey.resize((size, size), Image.Resampling.BILINEAR))


def on_all(cores: int, files: Sequence[Path], size: int) -> None:
    """The loop in as many processes as there are cores: what the machine has to give now."""
    context = multiprocessing.get_context("fork")
    loops = [context.Process(target=raw_loop, args=(files[i::cores], size)) for i in range(cores)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()


def few_of(root: Path, run_dir: Path) -> Path:
    """40 of the files in each folder of images, copied."""
    for folder in (path for path in root.rglob("*") if path.is_dir()):
        for file in sorted(folder.glob("*.jpeg"))[:40]:
            copy = run_dir / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return run_dir


def draw_radiographs(root: Path, count: int, size: int) -> Path:
    """Phantoms with the noise of a detector, as PNGs in the layout of ChestX-ray14."""
    phantom = installed().get("dataset", "phantom").cls(None, images=8)
    drawn = [
        Image.fromarray(phantom.load(path, size // 2)).resize((size, size))
        for path in phantom.index()["path"]
    ]
    names = write_table(root, count)
    for i, name in enumerate(names):
        clean = np.asarray(drawn[i % len(drawn)], dtype=np.float32)
        noise = np.random.default_rng(i).normal(0, 3, clean.shape)
        pixels = (clean + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
    return root


def write_table(root: Path, count: int) -> list[str]:
    """The table and the lists of ``count`` images, four a patient; returns their names."""
    (root / "images").mkdir(parents=True)
    findings = installed().get("dataset", "chestxray14").cls.classes  # type: ignore[attr-defined]
    names = [f"{i // 4:08}_{i % 4:03}.png" for i in range(count)]
    rows = [
        f"{name},{findings[i % len(findings)]},{i % 4},{i // 4},{20 + i % 60},{'MF'[i // 4 % 2]},PA"
        for i, name in enumerate(names)
    ]
    (root / "Data_Entry_2017.csv").write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    cut = count * 3 // 4 // 4 * 4
    (root / "train_val_list.txt").write_text("\n".join(names[:cut]), encoding="utf-8")
    (root / "test_list.txt").write_text("\n".join(names[cut:]), encoding="utf-8")
    return names


# -- (b) starting from the store -------------------------------------------------------------------


def starting(report: Report, root: Path, run_dir: Path, fast: bool) -> ImageData:
    """Seconds from a loaded recipe to its images, where they have been decoded before."""
    size = 16 if fast else 128
    recipe = all_findings(root, run_dir / "cache", size)
    data = prepare(recipe)
    rows = len(data.store.pixels)
    names = [f"{root}/{path}" for split in data.splits.values() for path in split.paths]

    figures = in_turn(
        {
            "stat": lambda: seconds_of(lambda: [os.stat(name) for name in names]),  # noqa: PTH116
            "start": lambda: seconds_of(lambda: prepare(recipe)),
        },
        3,
    )
    start, bare = median(figures["start"]), median(figures["stat"])
    what = f"start from a store of {rows:,} images of {size} x {size}"
    report.add(what, start, "s", bare, "os.stat of each file")
    return data


def all_findings(root: Path, cache: Path, size: int) -> Recipe:
    return load(
        "baseline_resnet50",
        [
            f"data.root={root}", f"data.cache={cache}", f"data.image_size={size}",
            "data.plugin=chestxray14", "data.classes=all", "data.label_policy=multi",
            "evaluation.protocol=official",
        ],
    )  # fmt: skip


def draw_layout(root: Path, count: int) -> Path:
    """A ChestX-ray14 of ``count`` names of a few tiny files."""
    names = write_table(root, count)
    for i, name in enumerate(names):
        if i % LINKS == 0:
            source = root / f"source{i // LINKS}.png"
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(source)
        (root / "images" / name).hardlink_to(source)
    return root


# -- (c) batches -----------------------------------------------------------------------------------


def drawing(report: Report, data: ImageData, fast: bool) -> None:
    """Milliseconds of a batch drawn from few and from all rows of the store."""
    rows = len(data.store.pixels)
    few = 500 if fast else 1000
    whole, part = (drawer(data, count) for count in (rows, few))
    figures = in_turn({"few": part, "all": whole}, 3 if fast else 9)
    base = median(figures["few"])
    report.add(f"a batch of 64 from {few:,} rows", 1000 * base, "ms")
    every = 1000 * median(figures["all"])
    report.add(f"a batch of 64 from {rows:,} rows", every, "ms", 1000 * base, f"{few:,} rows")


def drawer(data: ImageData, count: int) -> Callable[[], float]:
    """Draws 50 batches of the first ``count`` rows of a store; returns seconds a batch."""
    train = data.splits["train"]
    at = np.arange(count) % len(train)
    split = ImageSplit(
        StoredImages(data.store.pixels, torch.arange(count)),
        train.label_matrix[at],
        train.patients[at],
        [train.paths[i] for i in at],
        {name: values[at] for name, values in train.metadata.items()},
    )
    words = all_findings(Path(), Path(), 16).tables.data
    words = words.model_copy(update={"augmentation": None})
    batches = Batches(
        split, words, exclusive=False, batch_size=64, seed=0, device=torch.device("cpu")
    )
    batches.indices(0)  # an epoch is shuffled once
    steps = iter(range(10**9))

    def draw() -> float:
        began = time.perf_counter()
        for _ in range(50):
            batches.batch(next(steps) % batches.steps_per_epoch)
        return (time.perf_counter() - began) / 50

    return draw


def waiting(report: Report, run_dir: Path, fast: bool) -> None:
    """The share of a training step of the quickstart that goes into its batch."""
    small = [f"data.cache={run_dir / 'cache'}", "data.images=160", "run.log_every=1"]
    if fast:
        small += ["data.image_size=32", "generator.width=4", "discriminator.width=4"]
    silent = Display(Console(quiet=True))
    session = Session.of(load("quickstart", small), silent)
    loop = Trainer(session, RunDirectory(run_dir / "run"), silent)
    steps = iter(range(loop.total))

    def take() -> None:
        loop.step(next(steps))
        if loop.device.type == "cuda":
            torch.cuda.synchronize()

    def draw() -> float:
        return seconds_of(lambda: loop.source.batches.batch(3), 20)

    figures = in_turn({"batch": draw, "step": take}, 3 if fast else 15)
    step = 1000 * median(figures["step"])
    report.add("a step of the quickstart", step, "ms")
    report.add("its batch", 1000 * median(figures["batch"]), "ms", step, "the step")


if __name__ == "__main__":
    main()
