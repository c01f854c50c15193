"""Options, arguments and tables that several commands share."""

from __future__ import annotations

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


class BoundedInt(click.IntRange):
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


class SafePath(click.Path):
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
SEED_TYPE = BoundedInt(0, SEEDS - 1)

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
run_argument = click.argument("directory", metavar="RUN", type=SafePath(file_okay=False))
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
