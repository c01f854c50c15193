"""``xraygan new-plugin``: write a project for a new plugin."""

from __future__ import annotations

from pathlib import Path

import click

from .options import SafePath, complete_kinds, utf8


@click.command("new-plugin")
@click.argument("kind", shell_complete=complete_kinds)
@click.argument("name", callback=utf8)
@click.option(
    "--out",
    type=SafePath(),
    help="The project's folder; xraygan-NAME by default.",
)
def new_plugin(kind: str, name: str, out: Path | None) -> None:
    """Write a project for a plugin of your own, for example: new-plugin score my_distance.

    The project holds a working part of the KIND that you change, a test of it, packaging and CI.
    """
    from xraygan.scaffold import write_project

    folder = write_project(kind, name, out)
    click.echo(
        f"{folder}: change xraygan_{name}.py, then\n"
        f"  pip install -e '{folder}[dev]'\n"
        f"  pytest {folder}\n"
        f"  xraygan describe {kind} {name}"
    )
