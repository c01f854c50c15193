"""The reference pages, written from the code whenever the documentation is built."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

import xraygan
from xraygan import testing
from xraygan.cli import cli
from xraygan.parts import hookspecs
from xraygan.parts.options import REQUIRED, options_of, type_text
from xraygan.parts.registry import KINDS, docstring, installed
from xraygan.recipe import schema


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages to those of the folder."""
    for name, page in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    return files


def pages() -> dict[str, str]:
    """Every reference page by name."""
    made = {
        "commands": commands(),
        "recipe": recipe(),
        "parts": parts(),
        "hooks": hooks(),
        "python": python(),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "As `xraygan --help` and `xraygan COMMAND --help` print them."
    assert isinstance(cli, click.Group)
    yield from _command(cli, "xraygan", None)


def _command(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f"\n## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _command(found, below, context)


def recipe() -> Iterator[str]:
    yield "# Recipe\n"
    yield "The core's words. Every other key in a table that names a plugin is an option of that"
    yield "plugin: see [Parts](parts.md). `xraygan schema` prints all of it for editors."
    tables: dict[str, type[BaseModel]] = {
        "[run]": schema.Run,
        "[data]": schema.Data,
        "[data.augmentation]": schema.Augmentation,
        "[start]": schema.Start,
        "[generator], [discriminator], [classifier]": schema.Network,
        "optimizer": schema.Optimizer,
        "[labeler]": schema.Labeler,
        "[scores.NAME]": schema.Score,
        "[[schedule.phases]]": schema.Phase,
        "[evaluation]": schema.Evaluation,
    }
    for title, model in tables.items():
        yield f"\n## {title}\n\n| key | type | default | |\n| --- | --- | --- | --- |"
        for name, field in model.model_fields.items():
            default = (
                "" if field.is_required() else _toml(field.get_default(call_default_factory=True))
            )
            kind = _cell(type_text(_annotated(model, name)))
            yield f"| `{name}` | {kind} | {default} | {_cell(field.description or '')} |"


def _annotated(model: type[BaseModel], name: str) -> Any:
    from typing import get_type_hints

    return get_type_hints(model, include_extras=True)[name]


def parts() -> Iterator[str]:
    yield "# Parts\n"
    yield "What a recipe can name, as `xraygan describe KIND NAME` says it."
    for kind, about in KINDS.items():
        if about.instance:
            continue  # commands are on their own page
        yield f"\n## {kind.capitalize()}s"
        for part in installed().parts(kind):
            if part.error or part.distribution != "xraygan":
                continue
            yield f"\n### {kind} `{part.name}`\n\n```text\n{docstring(part.cls)}\n```"
            options = options_of(part.cls)
            if options:
                yield "\n| option | type | default |\n| --- | --- | --- |"
            for option in options.values():
                default = "required" if option.default is REQUIRED else _toml(option.default)
                yield f"| `{option.name}` | {_cell(option.type_text)} | {default} |"


def hooks() -> Iterator[str]:
    yield "# Hooks\n"
    yield f"```text\n{inspect.cleandoc(hookspecs.__doc__ or '')}\n```\n"
    yield "| hook | registers |\n| --- | --- |"
    for kind in KINDS.values():
        said = inspect.cleandoc(getattr(hookspecs, kind.hook).__doc__).splitlines()[0]
        said = said.partition(": ")[2]
        interface = kind.interface.removeprefix("xraygan.")
        if not kind.instance:
            interface = f"[{interface}](python.md#{interface.lower()})"
        yield f"| `{kind.hook}` | {interface}: {_cell(said)} |"


def python() -> Iterator[str]:
    yield "# Python\n"
    yield "`from xraygan import ...`; `xraygan.testing` holds the checks for plugin authors."
    for home, names in ((xraygan, xraygan.__all__), (testing, testing.__all__)):
        for name in names:
            found = getattr(home, name)
            if inspect.isclass(found) or inspect.isfunction(found):
                yield f"\n## {name}\n\n```text\n{_documented(found)}\n```"


def _documented(found: Any) -> str:
    said = [inspect.cleandoc(found.__doc__ or "")]
    if not isinstance(found, type):
        return f"{found.__name__}{inspect.signature(found)}\n\n{said[0]}"
    for name, member in vars(found).items():
        target = getattr(member, "func", None) or getattr(member, "fget", None) or member
        target = getattr(target, "__func__", target)
        public = not name.startswith("_")
        if public and inspect.isfunction(target) and target.__doc__:
            signature = ""
            if inspect.isfunction(member) or isinstance(member, classmethod):
                signature = str(inspect.signature(target))
            text = inspect.cleandoc(target.__doc__)
            said.append(
                f".{name}{signature}\n" + "\n".join(f"    {x}".rstrip() for x in text.splitlines())
            )
    return "\n\n".join(said)


def _toml(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.model_dump(exclude_none=True) for item in value]
    return f"`{_cell(json.dumps(value, default=str))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
