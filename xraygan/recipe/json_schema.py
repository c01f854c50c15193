"""The recipe as a JSON Schema, with the options of the installed plugins, for editors."""

from __future__ import annotations

import re
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from xraygan.errors import UserError
from xraygan.parts.options import REQUIRED, Option, options_of
from xraygan.parts.registry import Part, Registry, docstring, installed
from xraygan.recipe.files import plain

from . import schema

Json = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest that editors of TOML understand


def recipe_schema(registry: Registry | None = None) -> Json:
    """A JSON Schema (draft 07) of recipes.

    It is for writing: it knows every table, key and option, with types, bounds, defaults and
    descriptions. A recipe that extends another may leave out what that one says, so no key is
    required, and what belongs together only ``xraygan check`` can judge. A broken plugin's parts
    are left out.

    Args:
        registry: the installed plugins by default.
    """
    registry = registry or installed()
    words = schema.Tables.model_json_schema(ref_template="#/definitions/{model}")
    definitions: Json = words.pop("$defs")
    for table in definitions.values():
        table.pop("required", None)
    parts = {"data": ("dataset", "Data"), "labeler": ("labeler", "Labeler")}
    parts |= {kind: (kind, "Network") for kind in ("generator", "discriminator", "classifier")}
    parts |= {kind: (kind, kind.capitalize()) for kind in ("objective", "augmenter")}
    parts |= {"scores": ("score", "Score")}
    parts |= {group: (group.removesuffix("s"), "Named") for group in schema.GROUPS[1:]}
    dropped: Json = {"const": False, "description": "drop the table of the recipe that is extended"}
    properties: Json = {
        name: {"anyOf": [table, dropped]}
        for name, table in words["properties"].items()
        if name not in parts
    }
    for table, (kind, model) in parts.items():
        known = {}
        for part in registry.parts(kind):
            try:
                options = options_of(part.resolve())
            except Exception:  # `xraygan list-plugins` says what is wrong with it
                continue
            definitions[f"{kind} {part.name}"] = _part(part, options, definitions[model])
            known[part.name] = {"$ref": f"#/definitions/{kind} {part.name}"}
        named = [{"allOf": [found, {"required": ["plugin"]}]} for found in known.values()]
        if table in schema.GROUPS:
            own = {name: {"anyOf": [one, *named, dropped]} for name, one in known.items()}
            others = {"anyOf": [*named, dropped]}
            properties[table] = {"properties": own, "additionalProperties": others}
        else:
            properties[table] = {"anyOf": [*known.values(), dropped]}
    for model in {model for _, model in parts.values()}:
        del definitions[model]
    extends = {"type": "string", "description": "the recipe that this one changes: path or name"}
    words["properties"] = {"extends": extends, **properties}
    words.pop("required", None)
    about = "A recipe of xraygan, with the plugins that are installed"
    return {"$schema": DIALECT, **words, "title": about, "definitions": definitions}


def _part(part: Part, options: dict[str, Option], words: Json) -> Json:
    """A table that names a part: the core's words in it, and the part's options."""
    said = _arguments(docstring(part.cls))
    plugin = {"const": part.name, "description": part.summary}
    return {
        "type": "object",
        "description": part.summary,
        "properties": {
            **words["properties"],
            "plugin": plugin,
            **{name: _option(option, said.get(name, "")) for name, option in options.items()},
        },
        "additionalProperties": False,
    }


def _option(option: Option, said: str) -> Json:
    try:
        found = TypeAdapter(option.type).json_schema(ref_template="#/definitions/{model}")
    except (PydanticUserError, PydanticInvalidForJsonSchema, UserError):
        found = {}
    if said:
        found["description"] = said
    if option.default is not REQUIRED and option.default is not None:
        found["default"] = plain(option.default)
    return found


def _arguments(doc: str) -> dict[str, str]:
    """What a docstring's ``Args:`` say of each, in one line."""
    found: dict[str, str] = {}
    _, _, block = doc.partition("Args:\n")
    name = ""
    for line in block.splitlines():
        if line and not line.startswith(" "):
            break
        if match := re.match(r" {4}(\w+): (.+)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
