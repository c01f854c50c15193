"""``xraygan schema``: the recipe's JSON Schema, for editors."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, with the options of all installed plugins.

    An editor that is told of it completes and checks a recipe while it is written.
    """
    from xraygan.recipe.json_schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=1))
