"""How much training a GAN needs until its images are as near to held-out radiographs as a mark.

`python benchmarks/quality.py --data ZHANG --ruler WEIGHTS` trains `dcgan`, `cgan` and `projected`
one after the other, on the Zhang images at 64 x 64, and measures each at growing numbers of images:
the Frechet distance and KID between generated and validation images, of patients that no part was
trained on, in the features of a ResNet-18 that is no part of any system (`--ruler`, from a run on
the other training images; see docs/results.md). The test images of this dataset are of another
distribution than its training images, so a generator cannot come near to them. Seconds are of the
processor, of the training steps alone.

The projected discriminator looks at images through EfficientNet-Lite0. In the features of that
network its images would seem better than they are, so it is not the ruler.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from common import Report, benchmark

OPTIMIZER = "optimizer={{lr = {}, betas = [0.5, 0.999]}}"


def _networks(plugin: str, lr: float) -> tuple[str, ...]:
    """A generator and a discriminator of one plugin, with the non-saturating loss."""
    sets = [f"{name}.plugin={plugin}" for name in ("generator", "discriminator")]
    sets += [f"{name}.{OPTIMIZER.format(lr)}" for name in ("generator", "discriminator")]
    return (*sets, "objective.plugin=minmax", "scores.energy_distance=false")


#: each with the optimizer and loss that suit it: Radford et al.'s for DCGAN; for the CGAN, the rate
#: that made the best images in short runs; all with DiffAugment
SYSTEMS = {
    "dcgan": _networks("dcgan", 0.0002),
    "cgan": _networks("cgan", 0.0005),
    "projected": (),
}
FIGURES = {"frechet/ruler": "Frechet distance", "kid/ruler": "KID"}


@dataclass
class Curve:
    """What a system reached: rows of images seen, processor seconds, and the figures by name."""

    rows: list[tuple[int, float, dict[str, float]]] = field(default_factory=list)

    def reached(self, figure: str, mark: float) -> tuple[int, float] | None:
        """Images and seconds at the first measurement under a mark; None if there is none."""
        for images, seconds, figures in self.rows:
            if figures[figure] <= mark:
                return images, seconds
        return None

    def best(self, figure: str) -> float:
        return min(figures[figure] for _, _, figures in self.rows)


def recipe_of(system: str, data: Path | None, ruler: Path | None, fast: bool) -> Any:
    from xraygan.recipe.loading import load

    sets = ["data.validation=0.1", "classifier=false", "run.precision=fp32", *SYSTEMS[system]]
    phantom = ("data.plugin=phantom", "data.images=120")
    sets += phantom if data is None else ("data.plugin=zhang", f"data.root={data}")
    weights = "random" if ruler is None else str(ruler)
    sets += ["extractors.ruler.plugin=resnet18", f"extractors.ruler.weights={weights}"]
    left_out = ("auc", "classification", "density_coverage", "copies")
    sets += [f"metrics.{name}=false" for name in left_out]
    sets += ["metrics.frechet.extractor=ruler", "metrics.kid.extractor=ruler"]
    if fast:
        sets += ["evaluation.generated=20", "run.batch_size=4"]
        sets += ["discriminator.weights=random"] if system == "projected" else []
    return load("small_projected", sets)


def marks_of(fast: bool) -> Iterator[int]:
    """The numbers of steps at which images are measured: each 1.4 times the one before."""
    step = 1.0 if fast else 50.0
    while True:
        yield round(step)
        step *= 2 if fast else 1.4


def train(system: str, recipe: Any, seconds: float, fast: bool) -> Curve:
    """Train for so many processor seconds, and measure on the way."""
    from xraygan.evaluation.evaluation import evaluate
    from xraygan.rundir.directory import RunDirectory
    from xraygan.session.session import Session
    from xraygan.training.trainer import Trainer
    from xraygan.utils.progress import Display

    silent, curve, spent, step = Display(quiet=True), Curve(), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        session = Session.of(recipe, silent)
        trainer = Trainer(session, RunDirectory(Path(folder)), silent)
        for mark in marks_of(fast):
            began = time.process_time()
            while step < mark and spent + time.process_time() - began < seconds:
                trainer.step(step)
                step += 1
            spent += time.process_time() - began
            metrics = evaluate(session.evaluation("val"), step).content["metrics"]
            figures = {name: metrics[name]["value"] for name in FIGURES}
            images = step * recipe.tables.run.batch_size
            curve.rows.append((images, spent, figures))
            click.echo(f"{system}: {images:,} images, {spent:.0f} s, {figures}", err=True)
            if spent >= seconds or (fast and len(curve.rows) == 2):
                return curve
    raise AssertionError("there is always another mark")


@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The Zhang images; procedural radiographs without it.",
)
@click.option(
    "--ruler",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of the ResNet-18 in whose features is measured; random without it.",
)
@click.option("--systems", default=",".join(SYSTEMS), show_default=True)
@click.option("--seconds", type=float, default=1800.0, show_default=True, help="For each system.")
@click.option("--frechet", type=float, default=50.0, show_default=True, help="Its mark.")
@click.option("--kid", type=float, default=1.0, show_default=True, help="Its mark.")
@click.option("--threads", type=int, default=1, show_default=True)
@benchmark
def main(
    fast: bool,
    data: Path | None,
    ruler: Path | None,
    systems: str,
    seconds: float,
    frechet: float,
    kid: float,
    threads: int,
) -> Report:
    """Images and processor seconds until generated images are as near to real ones as the marks."""
    import torch

    torch.set_num_threads(threads)
    curves = {}
    for system in systems.split(","):
        recipe = recipe_of(system, data, ruler, fast)
        curves[system] = train(system, recipe, seconds, fast)
    return report(curves, {"frechet/ruler": frechet, "kid/ruler": kid})


def report(curves: dict[str, Curve], marks: dict[str, float]) -> Report:
    """The figures of each system, as ratios to those of `projected`."""
    found = Report("images and processor seconds until generated images reach a mark")
    ours = curves.get("projected")
    for system, curve in curves.items():
        images, seconds, _ = curve.rows[-1]
        for figure, name in FIGURES.items():
            best, base = curve.best(figure), ours.best(figure) if ours else 0.0
            # KID is unbiased, so that of a good generator may be below 0.
            ratio = (base, "projected") if base > 0 else (None, "")
            found.add(f"{system}: lowest", best, name, *ratio)
            reached, target = curve.reached(figure, marks[figure]), None
            if ours is not None:
                target = ours.reached(figure, marks[figure])
            if reached is None:
                found.notes.append(
                    f"{system} never reached a {name} of {marks[figure]:g} within {images:,} "
                    f"images and {seconds:,.0f} s."
                )
                continue
            for value, unit, i in ((reached[0], "images", 0), (reached[1], "s", 1)):
                base = None if target is None else target[i]
                to = "" if base is None else "projected"
                found.add(f"{system}: until {name} {marks[figure]:g}", value, unit, base, to)
    return found


if __name__ == "__main__":
    main()
