"""``xraygan data``: prepare the images of a recipe, and manage the image stores."""

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
    """Prepare the images of a recipe; list and remove the image stores on this machine."""


@data.command()
@recipe_argument
@set_option
@quiet_option
def prepare(recipe: str, overrides: tuple[str, ...], quiet: bool) -> None:
    """Decode the images of RECIPE into its image store, as its first run would do.

    Prints the numbers of images and patients of each split and class, and the images that are left
    out and why. Does not decode images that are in the store already. Names images that cannot be
    read; data.on_bad_image sets whether they stop the command.
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
    """List the image stores with their content, their data set and their size on the disk.

    No run can use a store that is outdated (written by another version of the toolkit), damaged, or
    left over (from a process that was killed).
    """
    from xraygan.data.cache_folder import cache_folder, list_stores

    folder = cache_folder(cache)
    stores = list_stores(folder)
    for entry in stores:
        click.echo(f"{entry.key}  {_describe_store(entry)}")
    total = _bytes(sum(entry.size for entry in stores))
    click.echo(f"{len(stores)} image stores, {total}, in {folder}")


@data.command()
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every image store.")
@click.option("--outdated", is_flag=True, help="Remove the stores that no run can use any more.")
@cache_option
def clear(keys: tuple[str, ...], everything: bool, outdated: bool, cache: Path | None) -> None:
    """Remove image stores by KEY, or by the beginning of a KEY, as `xraygan data list` shows it.

    A run that needs a removed store decodes its images again. Stores that another process is
    writing are not removed, and nothing but image stores is ever removed.
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
        click.echo(
            f"{'left' if fault else 'removed'}  {entry.key}  {fault or _describe_store(entry)}"
        )
        count, freed = count + (not fault), freed + (0 if fault else entry.size)
    if everything:
        remove_digests(folder)
    click.echo(f"{count} image stores removed, {_bytes(freed)}, from {folder}")


def _describe_store(entry: Any) -> str:
    """One line about a store."""
    about = entry.metadata
    phrases = [entry.state, _bytes(entry.size), f"last used {entry.used:%Y-%m-%d}"]
    if isinstance(count := about.get("count"), int):
        phrases.insert(0, f"{count:,} images of {about.get('size')} x {about.get('size')}")
    if "plugin" in about:
        phrases.append(f"{about['plugin']} {about.get('root') or '(no folder)'}")
    line = ", ".join(phrases)  # the store's file may hold unprintable characters
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
