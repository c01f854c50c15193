"""Arguments and options that several commands share, and the types of options."""

from __future__ import annotations

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


class BoundedInt(click.IntRange):
    """The type of an option that is a whole number: from ``least`` to ``most``, both included."""

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


class SafePath(click.Path):
    """The type of an option that is a file or folder, with a name that a message and a recipe can
    hold.

    Args:
        words: those of :class:`click.Path`, such as ``file_okay=False``.
    """

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


#: the type of an option that is a seed of random numbers
SEED_TYPE = BoundedInt(0, SEEDS - 1)

recipe_argument = click.argument("recipe", metavar="RECIPE", shell_complete=_recipes, callback=utf8)
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
    help="Which of the run's checkpoints.",
)
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, help="Print the result alone; warnings stay in the run's log."
)
