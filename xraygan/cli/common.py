"""What several verbs share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from xraygan.errors import shown
from xraygan.utils.limits import SEEDS


def _recipes(context: click.Context, parameter: click.Parameter, typed: str) -> list[Any]:
    """Shipped recipes, and the files that a shell would complete."""
    from xraygan.recipe.files import shipped

    names = [CompletionItem(name) for name in shipped() if name.startswith(typed)]
    return [*names, CompletionItem(typed, type="file")]


def complete_kinds(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The kinds of parts."""
    from xraygan.parts.registry import KINDS

    return [kind for kind in KINDS if kind.startswith(typed)]


def complete_parts(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The names of the kind that stands before."""
    from xraygan.parts.registry import installed

    return [n for n in installed().names(context.params.get("kind", "")) if n.startswith(typed)]


class Whole(click.IntRange):
    """A whole number of an option, between bounds that no use of it goes beyond."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(least, most)

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
    """A file or folder of an option, with a name that a message and a recipe can hold."""

    def __init__(self, **words: Any) -> None:
        super().__init__(path_type=Path, **words)

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        from xraygan.utils.paths import place_fault

        if fault := place_fault(str(value)):
            self.fail(f"{shown(str(value))} {fault}.", parameter, context)
        return super().convert(value, parameter, context)


def utf8(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """A text, or several, if all of it can be written into a recipe."""
    from xraygan.utils.paths import encoding_fault  # which imports what `--help` has no need of

    for text in value if isinstance(value, tuple) else (value,):
        if fault := encoding_fault(text):
            raise click.BadParameter(f"{shown(text)} {fault}.", context, parameter)
    return value


#: the seed of random numbers
SEED = Whole(0, SEEDS - 1)

recipe_argument = click.argument("recipe", metavar="RECIPE", shell_complete=_recipes, callback=utf8)
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
    help="Which of the run's checkpoints.",
)
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, help="Print the result alone; warnings stay in the run's log."
)


def print_metrics(path: Path) -> None:
    """Print the metrics of an ``evaluation.json`` as a table.

    Raises:
        UserError: it cannot be read.
    """
    from rich.table import Table

    from xraygan.data.split_names import SPLIT_NAMES
    from xraygan.rundir.directory import RunDirectory
    from xraygan.rundir.file_schemas import cautions

    place = RunDirectory(path.parent)
    place.evaluation = path  # of another split, maybe
    content = place.read_evaluation()
    about = content.get("protocol", {})
    kind = SPLIT_NAMES.get(about.get("split", "test"), "test")
    title = f"{path.parent.name}: {kind} images"
    table = Table(title=title, title_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("n", justify="right")
    notes = []
    for name, found in content.get("metrics", {}).items():
        value, interval = found.get("value"), found.get("interval")
        if value is None:
            notes.append(f"{name}: {found.get('note')}")
        if not isinstance(value, int | float):
            continue  # a matrix is for the report
        span = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        table.add_row(name, f"{value:.3f}", span, str(found.get("n", "")))
    _print(table)
    for line in (*cautions(about), *notes):
        click.echo(line)


def print_images(summary: Mapping[str, Any]) -> None:
    """Print how many images and patients each split and class has, and what is left out and why.

    Args:
        summary: see :meth:`xraygan.data.datamodule.ImageData.summary`.
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
    _print(table)
    for reason, count in summary["left_out"].items():
        click.echo(f"left out: {reason}: {count:,}")


def _print(table: Any) -> None:
    from rich.console import Console

    # In a pipe nothing is wrapped: rich would take it for 80 columns wide.
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)
