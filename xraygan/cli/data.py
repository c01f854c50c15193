"""``xraygan data``: the images of a recipe, apart from any run."""

from __future__ import annotations

import click

from .common import print_images, quiet_option, recipe_argument, set_option


@click.group()
def data() -> None:
    """The images of a recipe."""


@data.command()
@recipe_argument
@set_option
@quiet_option
def prepare(recipe: str, overrides: tuple[str, ...], quiet: bool) -> None:
    """Decode the images of RECIPE into its image store, as its first run would do.

    Prints how many images and patients each split and class has, and what is left out and why.
    Decodes nothing where the images are there already. Images that cannot be read are named;
    whether they stop it, data.on_bad_image says.
    """
    from ..display import Display
    from ..recipe import load
    from ..store import prepare

    display = Display(quiet=quiet)
    images = prepare(load(recipe, overrides), display.progress)
    for warning in images.warnings:
        display.say(f"warning: {warning}")
    print_images(images.summary())
    click.echo(images.store.account())
