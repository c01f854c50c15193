"""``xraygan data``: the images of a recipe, apart from any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import SafePath, quiet_option, recipe_argument, set_option
from .printing import print_images

cache_option = click.option(
    "--cache",
    metavar="DIR",
    type=SafePath(file_okay=False),
    help="The folder of image stores; by default the user's cache folder.",
)


@click.group()
def data() -> None:
    """The images of a recipe, and the image stores on this machine."""


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
    from xraygan.data.datamodule import prepare
    from xraygan.recipe.loading import load
    from xraygan.utils.progress import Display

    display = Display(quiet=quiet)
    images = prepare(load(recipe, overrides), display.progress)
    for warning in images.warnings:
        display.say(f"warning: {warning}")
    print_images(images.summary())
    click.echo(images.store.describe())


@data.command("list")
@cache_option
def list_(cache: Path | None) -> None:
    """List the image stores: what each holds, of which data, and its size on the disk.

    A store that is outdated (of another version of the toolkit), damaged or left over (of a process
    that was killed) is of no use to any run.
    """
    from xraygan.data.cache_folder import cache_folder, list_stores

    folder = cache_folder(cache)
    stores = list_stores(folder)
    for entry in stores:
        click.echo(f"{entry.key}  {_described(entry)}")
    total = _bytes(sum(entry.size for entry in stores))
    click.echo(f"{len(stores)} image stores, {total}, in {folder}")


@data.command()
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every image store.")
@click.option("--outdated", is_flag=True, help="Remove those that no run can use any more.")
@cache_option
def clear(keys: tuple[str, ...], everything: bool, outdated: bool, cache: Path | None) -> None:
    """Remove image stores: those whose KEY, or the beginning of it, `xraygan data list` shows.

    A run that needs a store that was removed decodes its images again. Stores that another process
    is writing are left, and nothing but image stores is ever removed.
    """
    from xraygan.data.cache_folder import (
        cache_folder,
        list_stores,
        remove_digests,
        remove_stores,
        select_stores,
    )
    from xraygan.errors import UserError

    if not (keys or everything or outdated):
        raise UserError("name the image stores to remove (see xraygan data list), or give --all")
    folder = cache_folder(cache)
    stores = list_stores(folder) if everything else select_stores(folder, keys, outdated=outdated)
    freed = count = 0
    for entry, fault in remove_stores(stores):
        click.echo(f"{'left' if fault else 'removed'}  {entry.key}  {fault or _described(entry)}")
        count, freed = count + (not fault), freed + (0 if fault else entry.size)
    if everything:
        remove_digests(folder)
    click.echo(f"{count} image stores removed, {_bytes(freed)}, from {folder}")


def _described(entry: Any) -> str:
    """A store in one line."""
    about = entry.metadata
    words = [entry.state, _bytes(entry.size), f"last used {entry.used:%Y-%m-%d}"]
    if isinstance(count := about.get("count"), int):
        words.insert(0, f"{count:,} images of {about.get('size')} x {about.get('size')}")
    if "plugin" in about:
        words.append(f"{about['plugin']} {about.get('root') or '(no folder)'}")
    line = ", ".join(words)  # of a file that anybody may have written
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
