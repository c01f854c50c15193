"""Options, arguments and tables that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from xraygan.errors import shown
from xraygan.utils.limits import SEEDS


def _complete_recipes(context: click.Context, parameter: click.Parameter, typed: str) -> list[Any]:
    """Names of shipped recipes, and files."""
    from xraygan.recipe.files import shipped

    names = [CompletionItem(name) for name in shipped() if name.startswith(typed)]
    return [*names, CompletionItem(typed, type="file")]


def complete_kinds(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The kinds of parts."""
    from xraygan.parts.registry import KINDS

    return [kind for kind in KINDS if kind.startswith(typed)]


def complete_parts(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The names of the parts of the kind that was typed before."""
    from xraygan.parts.registry import installed

    return [n for n in installed().names(context.params.get("kind", "")) if n.startswith(typed)]


class Whole(click.IntRange):
    """A whole number of an option, within bounds that only a typing error exceeds."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> int:
        if isinstance(value, str) and len(value) > len(str(self.max)) + 2:
            self.fail(
                f"{shown(value, 40)} is not in the range {self._describe_range()}.",
                parameter,
                context,
            )
        return super().convert(value, parameter, context)


class Place(click.Path):
    """A file or folder of an option, with a name that can be printed and written to a recipe."""

    def __init__(self, **words: Any) -> None:
        super().__init__(path_type=Path, **words)

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        from xraygan.utils.paths import argument_fault

        if fault := argument_fault(str(value)):
            self.fail(f"{shown(str(value))} {fault}.", parameter, context)
        return super().convert(value, parameter, context)


def utf8(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """One or several texts, after a check that they can be written to a recipe."""
    from xraygan.utils.paths import encoding_fault  # not at the top: `--help` does not need it

    for text in value if isinstance(value, tuple) else (value,):
        if fault := encoding_fault(text):
            raise click.BadParameter(f"{shown(text)} {fault}.", context, parameter)
    return value


#: type of a seed of random numbers
SEED = Whole(0, SEEDS - 1)

recipe_argument = click.argument(
    "recipe", metavar="RECIPE", shell_complete=_complete_recipes, callback=utf8
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    callback=utf8,
    metavar="TABLE.KEY=VALUE",
    help="Override a key of the recipe, for example scores.gram.weight=0; repeatable.",
)
run_argument = click.argument("directory", metavar="RUN", type=Place(file_okay=False))
checkpoint_option = click.option(
    "--checkpoint",
    "which",
    default="latest",
    show_default=True,
    metavar="latest|best|STEP",
    help="The checkpoint of the run to use.",
)
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, help="Print only the result; warnings go to the run's log."
)


def print_metrics(path: Path) -> None:
    """Print the metrics of an ``evaluation.json`` as a table.

    Raises:
        UserError: the file cannot be read.
    """
    from rich.table import Table

    from xraygan.data.split_names import SPLIT_NAMES
    from xraygan.rundir.directory import RunDirectory
    from xraygan.rundir.file_schemas import cautions

    place = RunDirectory(path.parent)
    place.evaluation = path  # it may be of another split
    content = place.read_evaluation()
    protocol = content.get("protocol", {})
    kind = SPLIT_NAMES.get(protocol.get("split", "test"), "test")
    title = f"{path.parent.name}: {kind} images"
    table = Table(title=title, title_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("n", justify="right")
    notes = []
    for name, measured in content.get("metrics", {}).items():
        value, interval = measured.get("value"), measured.get("interval")
        if value is None:
            notes.append(f"{name}: {measured.get('note')}")
        if not isinstance(value, int | float):
            continue  # only the report shows a matrix
        span = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        table.add_row(name, f"{value:.3f}", span, str(measured.get("n", "")))
    _print_table(table)
    for line in (*cautions(protocol), *notes):
        click.echo(line)


def print_images(summary: Mapping[str, Any]) -> None:
    """Print the numbers of images and patients of each split and class, and of images left out.

    Args:
        summary: of :meth:`xraygan.data.datamodule.ImageData.summary`.
    """
    from rich.table import Table

    splits = [name for name, images in summary["images"].items() if images]
    table = Table("", title_justify="left")
    for name in splits:
        table.add_column(name, justify="right")
    for row in ("images", "patients"):
        table.add_row(row, *(f"{summary[row][name]:,}" for name in splits))
    table.add_section()
    for label in summary["classes"]["train"]:
        table.add_row(label, *(f"{summary['classes'][name][label]:,}" for name in splits))
    _print_table(table)
    for reason, count in summary["left_out"].items():
        click.echo(f"left out: {reason}: {count:,}")


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Not wrapped in a pipe, which rich would assume to be 80 columns wide.
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)
