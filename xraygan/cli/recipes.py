"""``xraygan recipes``: list and copy the recipes that come with the toolkit."""

from __future__ import annotations

from pathlib import Path

import click

from xraygan.errors import UserError
from xraygan.utils.atomic_files import write_atomically

from .options import SafePath, utf8


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List the recipes that come with the toolkit; copy one to edit it."""
    from xraygan.recipe.files import read_description, shipped

    if context.invoked_subcommand is None:
        known = shipped()
        width = max(map(len, known))
        for name, path in known.items():
            click.echo(f"{name:{width}}  {read_description(path)}")


@recipes.command()
@click.argument("name", callback=utf8)
@click.argument("file", required=False, type=SafePath(dir_okay=False))
def copy(name: str, file: Path | None) -> None:
    """Copy the recipe NAME to FILE, NAME.toml by default, so that you can edit it.

    The copy works in any folder: it names the recipe that it extends by name, not by path.
    """
    from xraygan.recipe.files import find_shipped

    source = find_shipped(name)
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    try:
        if target.exists() or target.is_symlink():
            raise UserError(f"{target} already exists; name another FILE")
        write_atomically(target, source.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    click.echo(f"{target}: edit it, `xraygan check {target}`, `xraygan run {target}`")
