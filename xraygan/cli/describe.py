"""``xraygan describe``: print a part's docstring, and its options with types and defaults."""

from __future__ import annotations

import json

import click

from xraygan.errors import UserError, did_you_mean

from .options import complete_kinds, complete_parts


@click.command()
@click.argument("kind", shell_complete=complete_kinds)
@click.argument("name", shell_complete=complete_parts)
def describe(kind: str, name: str) -> None:
    """Describe the part NAME of a KIND, for example: describe score mmd."""
    from xraygan.parts.options import REQUIRED, options_of
    from xraygan.parts.registry import KINDS, docstring, installed

    if kind not in KINDS:
        raise UserError(f"no kind of part is named {kind!r}; {did_you_mean(kind, KINDS)}")
    part = installed().get(kind, name)
    click.secho(f"{kind} {name}  ({part.origin})", bold=True)
    if kind == "command":
        click.echo("\n" + part.cls.get_help(click.Context(part.cls, info_name=f"xraygan {name}")))
        return
    options = options_of(part.cls)
    click.echo(f"\n{docstring(part.cls) or 'It has no docstring.'}\n")
    table = {"dataset": "data"}.get(kind, kind)
    grouped = kind in ("score", "extractor", "metric", "tracker")
    click.echo(f"[{kind}s.{name}]" if grouped else f'[{table}]\nplugin = "{name}"')
    for option in options.values():
        default = "required" if option.default is REQUIRED else _toml(option.default)
        click.echo(f"{option.name} = {default}    # {option.type_text}")


def _toml(value: object) -> str:
    if value is None:
        return "unset"
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)
