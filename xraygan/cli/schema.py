"""``xraygan schema``: print the JSON Schema of a recipe, for editors."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, with the options of all installed plugins.

    An editor that uses the schema completes and checks a recipe while you write it.
    """
    from xraygan.recipe.json_schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=1))
