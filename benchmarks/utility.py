"""How often `xraygan utility` gives the right verdict, on images whose truth is known.

`python benchmarks/utility.py` draws a small data set of procedural radiographs (Mass or Nodule, 20
training images of each) and images that pretend to be generated, and studies them, again and again:

- `fresh`: other radiographs of the same kind; the verdict should be a gain;
- `noise`: random pixels with random labels; no gain;
- `copies`: the training images themselves; no gain, and the audit should find copies;
- `exchanged`: radiographs with the labels exchanged; a loss.

Studies that are complete in the folder `--out` are kept, without their networks, so an interrupted
command can be given again. docs/utility.md has the table of 20 repetitions.
"""

from __future__ import annotations

import csv
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import Report, benchmark

CLASSES = ("Mass", "Nodule")
#: kind -> the verdicts that are right, and whether the audit should find copies
RIGHT = {
    "fresh": (("gain",), False),
    "noise": (("none shown", "loss"), False),
    "copies": (("none shown", "loss"), True),
    "exchanged": (("loss",), False),
}
RECIPE = """
metrics = {{ auc = {{}} }}
[run]
steps = {steps}
batch_size = 16
device = "cpu"
precision = "fp32"
threads = 1
log_every = 100
[data]
plugin = "csv"
root = "{root}"
image_size = 32
[classifier]
plugin = "resnet18"
weights = "random"
[evaluation]
bootstrap = 300
"""
#: training images of each class, generated images of each class for one of these, test images
TRAIN, RATIO, TEST = 20, 5, 300


@functools.cache  # those of a repetition are the same for each kind
def radiographs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Procedural radiographs ``(N, 32, 32)`` uint8, their class ``(N,)`` and their patients."""
    from xraygan.data.datamodule import open_dataset
    from xraygan.recipe.loading import load

    sets = [
        "data.plugin=phantom", f"data.images={count}", f"data.seed={seed}", "data.image_size=32",
        f"data.findings={json.dumps(CLASSES)}", "data.test_fraction=0.01",
    ]  # fmt: skip
    dataset = open_dataset(load("baseline_resnet50", sets))
    rows = dataset.index()
    images = np.stack([dataset.load(path, 32) for path in rows["path"]])
    labels = np.array([CLASSES.index(names[0]) for names in rows["labels"]])
    return images, labels, [f"{seed}-{patient}" for patient in rows["patient"]]


def write(folder: Path, table: str, rows: list[dict[str, Any]], images: np.ndarray) -> None:
    """Write images and their table."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for row, image in zip(rows, images, strict=True):
        Image.fromarray(image).save(folder / row["path"])
    with (folder / table).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(kind: str, repetition: int, folder: Path) -> None:
    """Write a data set below `real`, and images that pretend to be generated below `generated`."""
    random = np.random.default_rng([repetition, 7])
    images, labels, patients = radiographs(4 * TRAIN + TEST + 100, 10_000 + repetition)
    # Whole patients are training patients until there are enough of each class.
    taken: list[int] = []
    training: set[str] = set()
    for i, patient in enumerate(patients):
        if (labels[taken] == labels[i]).sum() < TRAIN:
            taken.append(i)
            training.add(patient)
    test = [i for i, patient in enumerate(patients) if patient not in training][:TEST]
    rows = [
        {
            "path": f"{i:05d}.png", "label": CLASSES[labels[i]], "patient": patients[i],
            "split": "train" if i in taken else "test",
        }
        for i in (*taken, *test)
    ]  # fmt: skip
    write(folder / "real", "images.csv", rows, images[[*taken, *test]])
    count = TRAIN * RATIO
    if kind == "copies":
        fake, truth = np.repeat(images[taken], RATIO, axis=0), np.repeat(labels[taken], RATIO)
    else:
        drawn, drawn_labels, _ = radiographs(3 * count, 20_000 + repetition)
        some = np.concatenate([np.flatnonzero(drawn_labels == k)[:count] for k in (0, 1)])
        fake, truth = drawn[some], drawn_labels[some]
    if kind == "noise":
        fake = random.integers(0, 256, fake.shape, dtype=np.uint8)
    if kind == "exchanged":
        truth = 1 - truth
    listed = [{"path": f"{i:05d}.png", "label": CLASSES[k]} for i, k in enumerate(truth)]
    write(folder / "generated", "generated.csv", listed, fake)


def execute(sweep: Any, folder: Path) -> list[Any]:
    """The runs of a sweep in this process: a new one for each would take longer than training."""
    from xraygan.recipe.loading import load
    from xraygan.sweep.runner import prepare_runs
    from xraygan.training.engine import run
    from xraygan.utils.progress import Display

    runs = prepare_runs(sweep, folder)
    for one in runs:
        if not one.done:
            run(load(one.recipe), one.run_dir.path, resume=True, display=Display(quiet=True))
    return runs


def study(kind: str, repetition: int, folder: Path, seeds: int, steps: int) -> dict[str, Any]:
    """The content of `utility.json` of one study."""
    from xraygan.study.design import Options
    from xraygan.study.record import Source
    from xraygan.study.study import run_study
    from xraygan.utils.progress import Display

    done = folder / "study" / "utility.json"
    if not done.exists():
        draw(kind, repetition, folder)
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE.format(steps=steps, root=folder / "real"), encoding="utf-8")
        options = Options(
            real=(None,), ratios=(float(RATIO),), filters=("none",), keep=(0.5,), seeds=seeds,
            choice_seeds=1, steps=steps, count=1, metric="auc/mean", extractor=None, arms=(),
            seed=100 * repetition,
        )  # fmt: skip
        source = Source(folder=folder / "generated", recipe=str(recipe))
        run_study(source, options, folder / "study", Display(quiet=True), execute)
        for networks in folder.glob("study/*/runs/*/checkpoints"):  # 1.3 GB a study
            shutil.rmtree(networks)
    content: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return content


@contextmanager
def folder_of(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@click.option("--kinds", default=",".join(RIGHT), show_default=True)
@click.option("--repetitions", type=int, default=20, show_default=True)
@click.option("--seeds", type=int, default=5, show_default=True, help="Runs of each arm.")
@click.option("--steps", type=int, default=60, show_default=True, help="Of each run.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the studies in this folder.")
@benchmark
def main(
    fast: bool, kinds: str, repetitions: int, seeds: int, steps: int, out: Path | None
) -> Report:
    """Count the right verdicts of utility studies whose truth is known."""
    import torch

    torch.set_num_threads(1)
    repetitions, seeds, steps = (1, 2, 2) if fast else (repetitions, seeds, steps)
    report = Report("right verdicts of xraygan utility")
    with folder_of(out) as folder:
        for kind in kinds.split(","):
            verdicts, copies = RIGHT[kind]
            right, gaps = 0, []
            for repetition in range(repetitions):
                found = study(kind, repetition, folder / f"{kind}-{repetition}", seeds, steps)
                result, audit = found["real"][0], found["audit"]["verdict"]
                right += result["verdict"] in verdicts and (audit == "copies") == copies
                gaps.append(result["arms"][result["chosen"]]["difference"]["value"])
                click.echo(f"{kind} {repetition}: {result['says']}; audit {audit}", err=True)
            report.add(f"{kind}: right", right, "verdicts", repetitions, "repetitions")
            report.notes.append(
                f"{kind}: difference of AUC {np.mean(gaps):+.3f} on average, "
                f"{min(gaps):+.3f} to {max(gaps):+.3f}"
            )
    return report


if __name__ == "__main__":
    main()
