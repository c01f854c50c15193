"""``xraygan utility``: do generated images help a classifier?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xraygan.errors import UserError
from xraygan.utils.limits import MOST, MOST_PROCESSES, MOST_STEPS

from .folders import folder_option, measures_folders, optional_run_argument
from .options import SEED_TYPE, BoundedInt, SafePath, checkpoint_option, quiet_option, set_option

if TYPE_CHECKING:
    from xraygan.sweep.file import Sweep
    from xraygan.sweep.plan import Run

#: names of the filters, in :data:`xraygan.study.filters.FILTERS`
FILTERS = ("none", "confidence", "density", "distance")
#: arms that can be left out: keys of :data:`xraygan.study.design.OPTIONAL`
ARMS = ("real", "augmented", "before", "alone")
MOST_SEEDS = 1000
#: what to do about runs that another version of the toolkit, or another hand, has made differently
REMEDY = "Delete these runs to have them made again, or name another folder with --out"


class Values(click.ParamType):
    """Values with commas between, each once.

    Args:
        parse: turns the text of one into its value; ValueError for what is none.
        expected: what the values are, for messages.
    """

    name = "A,B,..."

    def __init__(self, parse: Callable[[str], Any], expected: str) -> None:
        self.parse, self.expected = parse, expected

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(dict.fromkeys(self.parse(part.strip()) for part in value.split(",")))
        except ValueError:
            self.fail(f"{value!r}: expected {self.expected}, with commas between", param, ctx)


def _between(number: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = number(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _real(text: str) -> int | None:
    return None if text == "all" else _between(int, 1, MOST)(text)


def _names(known: Sequence[str]) -> Values:
    def name(text: str) -> str:
        if text not in known:
            raise ValueError
        return text

    return Values(name, f"some of {', '.join(known)}")


def _option(name: str, kind: Any, default: Any, help_text: str) -> Any:
    return click.option(name, type=kind, default=default, show_default=True, help=help_text)


RATIOS = Values(_between(float, 0.001, 1000), "numbers from 0.001 to 1000")
SHARES = Values(_between(float, 0.001, 0.999), "shares between 0 and 1")


@click.command()
@optional_run_argument
@folder_option("--images", "Study the generated images of a folder instead of those of a run.")
@click.option(
    "--table",
    metavar="FILE.csv",
    type=SafePath(dir_okay=False),
    help="With --images: the table of their labels, with columns path (from the folder) and label; "
    "by default generated.csv in the folder.",
)
@click.option(
    "--recipe",
    default="",
    help="With --images: the recipe of the real images and of the classifier.",
)
@_option(
    "--real",
    Values(_real, "numbers of images, or all"),
    "20,40,100,400,all",
    "Numbers of real training images of each class.",
)
@_option("--ratios", RATIOS, "0.25,0.5,1,2,5", "Numbers of generated images for each real one.")
@_option("--filters", _names(FILTERS), ",".join(FILTERS), "Filters of generated images to try.")
@_option("--keep", SHARES, "0.5", "Shares of the generated images that a filter keeps.")
@_option(
    "--arms",
    _names((*ARMS, "none")),
    ",".join(ARMS),
    "Arms beside real images again and real + generated: half as many real images a step, more "
    "augmentation, generated before real, generated alone.",
)
@_option("--seeds", BoundedInt(2, MOST_SEEDS), 5, "Runs of each arm that are tested.")
@_option("--choice-seeds", BoundedInt(1, MOST_SEEDS), 3, "Runs of each candidate that choose.")
@click.option(
    "--steps",
    type=BoundedInt(1, MOST_STEPS),
    help="Training steps of each run; by default those of a recipe without generator, else 600.",
)
@_option("--count", BoundedInt(1, MOST), 5000, "With RUN: most images of each class to generate.")
@_option("--metric", str, "auc/mean", "The figure that arms are compared by.")
@click.option(
    "--extractor",
    metavar="NAME",
    help="Compare images in the features of this extractor too (audit, filter density); by default "
    "in pixels alone.",
)
@_option("--seed", SEED_TYPE, 0, "The first seed of the runs, and the seed of the images.")
@_option("--jobs", BoundedInt(1, MOST_PROCESSES), 1, "Number of parallel runs.")
@click.option(
    "--out",
    type=SafePath(file_okay=False),
    help="The study's folder; runs/utility/NAME by default.",
)
@checkpoint_option
@set_option
@quiet_option
@click.pass_context
def utility(context: click.Context, /, **values: Any) -> None:
    """Measure whether generated images help a classifier: those of RUN's generator, or of a folder.

    Trains fresh classifiers for the same number of steps on real images alone, on real images with
    more augmentation, on real and generated images together and one after the other, and on
    generated images alone. How many generated images are used, and which, is chosen on validation
    images; the test images are used once. The comparison is with the same real images in place of
    the generated ones. Generated images are audited for copies of training images.

    Writes utility.html, utility.png, utility.md, utility.csv, utility.json and the runs. Give the
    same command again to continue an interrupted study.
    """
    from xraygan.study.page import write_results
    from xraygan.study.study import run_study
    from xraygan.sweep import run_all
    from xraygan.utils.progress import Display
    from xraygan.utils.signals import Interrupted

    source, options = _source(context, values), _options(values)
    display = Display(quiet=values["quiet"])
    name = (source.run or source.folder).resolve().name
    out = values["out"] or Path("runs") / "utility" / name

    def execute(planned: Sweep, folder: Path) -> list[Run]:
        return run_all(planned, folder, display, values["jobs"], remedy=REMEDY)

    command = shlex.join(["xraygan", *sys.argv[1:]])
    try:
        study = run_study(source, options, out, display, execute, command)
    except Interrupted as interrupted:
        display.say(f"xraygan: {interrupted}: the runs are saved; continue with the same command")
        sys.exit(128 + interrupted.number)
    page, *_ = write_results(study)
    for result in study.content["real"]:
        click.echo(f"{result['described']}: {result['says']}")
    click.echo(f"audit: {study.content['audit']['says']}")
    click.echo(study.content["recommendation"])
    click.echo(page)


def _source(context: click.Context, values: dict[str, Any]) -> Any:
    """Where the generated images come from.

    Raises:
        UserError: options contradict each other, or one is missing.
    """
    from xraygan.study.record import Source

    images, recipe = values["images"], values["recipe"]
    folders, own = {"--images": images}, ("--table", "--recipe")
    if not measures_folders(context, folders, own, ("--checkpoint", "--count")):
        return Source(run=values["directory"], checkpoint=values["which"])
    if not recipe:
        raise UserError(
            "--recipe is missing beside --images: it says which real images there are, and which "
            "classifier is trained"
        )
    return Source(folder=images, table=values["table"], recipe=recipe)


def _options(values: dict[str, Any]) -> Any:
    """What the study is asked for.

    Raises:
        UserError: arms are named beside none.
    """
    from xraygan.study.design import Options

    if "none" in values["arms"] and len(values["arms"]) > 1:
        raise UserError(
            f"--arms {','.join(values['arms'])}: none leaves out all of them; name none alone, or "
            "the arms that you want"
        )
    values = values | {"arms": tuple(name for name in values["arms"] if name != "none")}
    names = {field.name for field in fields(Options)}
    return Options(**{name: value for name, value in values.items() if name in names})
