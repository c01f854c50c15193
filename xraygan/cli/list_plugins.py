"""``xraygan list-plugins``: list the parts that a recipe can name, and the commands of plugins."""

from __future__ import annotations

import json

import click

from xraygan.errors import UserError, did_you_mean

from .options import complete_kinds


@click.command("list-plugins")
@click.argument("kind", required=False, shell_complete=complete_kinds)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def list_plugins(kind: str | None, as_json: bool) -> None:
    """List the installed parts, of one KIND (dataset, score, command, ...) or all.

    A broken plugin is listed with the reason; the other plugins work.
    """
    from xraygan.parts.registry import KINDS, installed

    kind = kind.removesuffix("s") if kind else None
    if kind is not None and kind not in (*KINDS, "plugin"):
        raise UserError(f"no kind of part is named {kind!r}; {did_you_mean(kind, KINDS)}")
    parts = [part.as_dict() for part in installed().parts(kind)]
    if as_json:
        click.echo(json.dumps(parts, indent=1))
        return
    width = max((len(part["name"]) for part in parts), default=0)
    heading = ""
    for part in parts:
        if part["kind"] != heading:
            heading = part["kind"]
            click.secho(f"{heading}s", bold=True)
        origin = f"{part['distribution']} {part['version']}".strip()
        if part["status"] == "ok":
            click.echo(f"  {part['name']:{width}}  {part['summary']}  ({origin})")
        else:
            click.secho(f"  {part['name']:{width}}  broken: {part['error']}  ({origin})", fg="red")
