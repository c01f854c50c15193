"""How the step's time and memory grow with the batch, the images, the dataset and the ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import torch
from common import Report, benchmark, in_turn, median
from rich.console import Console
from step import SET, SMALL, Case, has_bf16, waiting

from xraygan.data.batches import Batches
from xraygan.data.image_splits import ImageSplit, StoredImages
from xraygan.recipe.loading import load
from xraygan.rundir.directory import RunDirectory
from xraygan.session.session import Session
from xraygan.training.trainer import Trainer
from xraygan.utils.precision import choose_device, keep_freed_memory, make_deterministic
from xraygan.utils.progress import Display

#: prints how many MiB more a process has held at most during steps of a recipe than before them
MEASURE_MEMORY = """
import re, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from step import Case
from xraygan.utils.precision import keep_freed_memory
from xraygan.recipe.loading import load
keep_freed_memory()
case = Case(load("ucgan_full", {overrides!r}), {precision!r})
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
for _ in range(2):
    case.train()
print((status("VmHWM") - before) / 1024)
"""


def steps_per_second(report: Report, fast: bool, precision: str, repetitions: int) -> None:
    """Images/s of batches and image sizes, and what the largest needs."""
    small, batches, sizes = (SMALL, (4, 8), (32,)) if fast else ((), (4, 12, 48), (64, 128, 256))
    middle = [batches[len(batches) // 2], sizes[len(sizes) // 2]]
    settings = [(batch, middle[1]) for batch in batches] + [(middle[0], size) for size in sizes]
    candidates: dict[str, Callable[[], float | None]] = {}
    for batch, size in dict.fromkeys(settings):
        given = [*SET, *small, f"run.batch_size={batch}", f"data.image_size={size}"]
        case = Case(load("ucgan_full", given), precision)
        candidates[f"{batch} x {size}"] = waiting(case.train, case.device)
    figures = in_turn(candidates, repetitions)
    base = f"{middle[0]} x {middle[1]}"
    for batch, size in dict.fromkeys(settings):
        seconds, usual = (median(figures[name]) for name in (f"{batch} x {size}", base))
        what = f"an image of a batch of {batch}, {size} x {size}"
        report.add(what, 1000 * seconds / batch, "ms", 1000 * usual / middle[0], base)


def memory(report: Report, fast: bool, precision: str) -> None:
    """What steps take beside the networks' weights, in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        report.notes.append("left out: memory, which only Linux tells")
        return
    size = [*SMALL] if fast else []
    for batch in (4,) if fast else (12, 48):
        given = [*SET, *size, f"run.batch_size={batch}"]
        folder = str(Path(__file__).parent)
        code = MEASURE_MEMORY.format(folder=folder, overrides=given, precision=precision)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        report.add(f"memory of a step, batch {batch}", float(done.stdout), "MiB")


def dataset_size(report: Report, fast: bool, repetitions: int) -> None:
    """The whole step, its batch included, from stores of few and of many rows."""
    few, many, size = (200, 2_000, 32) if fast else (1_000, 112_120, 128)
    small = [*SMALL, "evaluation.protocol=official"] if fast else [f"data.image_size={size}"]
    with tempfile.TemporaryDirectory() as folder:
        silent = Display(Console(quiet=True))
        given = [*SET, *small, "data.plugin=phantom", f"data.cache={folder}/cache"]
        session = Session.of(load("ucgan_full", given), silent)
        loop = Trainer(session, RunDirectory(Path(folder) / "run"), silent)
        (Path(folder) / "pixels").write_bytes(bytes(many * size * size))
        pixels = torch.from_file(
            f"{folder}/pixels", shared=True, size=many * size * size, dtype=torch.uint8
        ).view(many, size, size)
        batches = {count: batches_of(loop, pixels, count) for count in (few, many)}
        at = iter(range(10**9))

        def step_from(count: int) -> Callable[[], object]:
            def take() -> object:
                loop.source.batches = batches[count]
                return loop.step(next(at) % 50)

            return take

        names = {f"{count:,}": waiting(step_from(count), loop.device) for count in (few, many)}
        figures = in_turn(names, repetitions)
    base = median(figures[f"{few:,}"])
    report.add(f"a step from a store of {few:,} rows", base, "s")
    report.add(f"a step from {many:,} rows", median(figures[f"{many:,}"]), "s", base, f"{few:,}")


def batches_of(loop: Trainer, pixels: torch.Tensor, count: int) -> Batches:
    """Batches of the first rows of a store, labelled like the phantom's images."""
    train = loop.session.data.splits["train"]
    at = torch.arange(count).numpy() % len(train)
    split = ImageSplit(
        StoredImages(pixels, torch.arange(count)),
        train.label_matrix[at],
        train.patients[at],
        [train.paths[i] for i in at],
        {name: values[at] for name, values in train.metadata.items()},
    )
    recipe = loop.session.recipe.tables
    return Batches(
        split,
        recipe.data,
        exclusive=True,
        batch_size=recipe.run.batch_size,
        seed=0,
        device=loop.device,
    )


def ranks(report: Report, fast: bool) -> None:
    """Images/s of `xraygan run quickstart`, on one rank and on several."""
    gpus = torch.cuda.device_count()
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, gpus if gpus > 1 else 2):
            given = ["data.images=160", "run.sample_every=0"]
            given += [f"run.steps={4 if fast else 60}", f"run.log_every={2 if fast else 20}"]
            given += [f"data.cache={folder}/cache", "evaluation.bootstrap=20"]
            given += (
                ["data.image_size=32", "generator.width=4", "evaluation.generated=16"]
                if fast
                else []
            )
            out = f"{folder}/{count}"
            subprocess.run(
                [
                    sys.executable, "-m", "xraygan", "run", "quickstart", "--out", out,
                    "--devices", str(count), *(w for text in given for w in ("--set", text)),
                ],
                check=True, capture_output=True, env={**os.environ},
            )  # fmt: skip
            lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
            speeds[count] = json.loads(lines[-1])["images_per_second"]
    for count, speed in speeds.items():
        base = None if count == 1 else speeds[1]
        to = "" if count == 1 else "1 rank"
        report.add(f"quickstart on {count} rank{'s' * (count > 1)}", speed, "images/s", base, to)


@benchmark
@click.option("--repetitions", type=int, default=5, show_default=True)
def main(fast: bool, repetitions: int) -> Report:
    """The step of ucgan_full by batch, image size and dataset size, its memory, and ranks."""
    make_deterministic()
    keep_freed_memory()
    repetitions = 1 if fast else repetitions
    device = choose_device("auto")
    precision = "bf16" if has_bf16(device) else "fp32"
    report = Report(f"Scaling, {precision}")
    # First: this process will keep what its own steps take, and both do not fit into 24 GiB.
    memory(report, fast, precision)
    steps_per_second(report, fast, precision, repetitions)
    dataset_size(report, fast, repetitions if fast else 2 * repetitions)
    ranks(report, fast)
    return report


if __name__ == "__main__":
    main()
