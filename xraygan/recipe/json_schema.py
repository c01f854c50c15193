"""The recipe as a JSON Schema, with the options of the installed plugins, for editors."""

from __future__ import annotations

import re
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from xraygan.errors import UserError
from xraygan.parts.options import REQUIRED, Option, options_of
from xraygan.parts.registry import Part, Registry, docstring, installed

from . import schema
from .files import plain

Json = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest that TOML editors understand


def recipe_schema(registry: Registry | None = None) -> Json:
    """A JSON Schema (draft 07) of recipes, for completion and hints in an editor.

    It has every table, key and option, with types, bounds, defaults and descriptions. A recipe that
    extends another may leave out any key, so no key is required; whether keys fit each other only
    ``xraygan check`` can tell. The parts of a broken plugin are left out.

    Args:
        registry: the installed plugins by default.
    """
    registry = registry or installed()
    root = schema.RecipeConfig.model_json_schema(ref_template="#/definitions/{model}")
    definitions: Json = root.pop("$defs")
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
        for name, table in root["properties"].items()
        if name not in parts
    }
    for table, (kind, model) in parts.items():
        references = {}
        for part in registry.parts(kind):
            try:
                options = options_of(part.resolve())
            except Exception:  # `xraygan list-plugins` reports the fault
                continue
            definitions[f"{kind} {part.name}"] = _part_schema(part, options, definitions[model])
            references[part.name] = {"$ref": f"#/definitions/{kind} {part.name}"}
        if table in schema.GROUPS:
            # A table called as a plugin is that plugin, unless its key `plugin` names another.
            named = [{"allOf": [r, {"required": ["plugin"]}]} for r in references.values()]
            own = {name: {"anyOf": [r, *named, dropped]} for name, r in references.items()}
            others = {"anyOf": [*named, dropped]}
            properties[table] = {"properties": own, "additionalProperties": others}
        else:
            properties[table] = {"anyOf": [*references.values(), dropped]}
    for model in {model for _, model in parts.values()}:
        del definitions[model]
    extends = {"type": "string", "description": "the recipe that this one changes: path or name"}
    root["properties"] = {"extends": extends, **properties}
    root.pop("required", None)
    title = "A recipe of xraygan, with the plugins that are installed"
    return {"$schema": DIALECT, **root, "title": title, "definitions": definitions}


def _part_schema(part: Part, options: dict[str, Option], table: Json) -> Json:
    """The schema of a table that names a part: the toolkit's keys in it, and the part's options.

    Args:
        table: the schema of the toolkit's keys.
    """
    descriptions = _argument_descriptions(docstring(part.cls))
    plugin = {"const": part.name, "description": part.summary}
    return {
        "type": "object",
        "description": part.summary,
        "properties": {
            **table["properties"],
            "plugin": plugin,
            **{
                name: _option_schema(option, descriptions.get(name, ""))
                for name, option in options.items()
            },
        },
        "additionalProperties": False,
    }


def _option_schema(option: Option, description: str) -> Json:
    try:
        result = TypeAdapter(option.type).json_schema(ref_template="#/definitions/{model}")
    except (PydanticUserError, PydanticInvalidForJsonSchema, UserError):
        result = {}
    if description:
        result["description"] = description
    if option.default is not REQUIRED and option.default is not None:
        result["default"] = plain(option.default)
    return result


def _argument_descriptions(doc: str) -> dict[str, str]:
    """The descriptions in a docstring's ``Args:``, in one line each, by argument."""
    descriptions: dict[str, str] = {}
    _, _, block = doc.partition("Args:\n")
    name = ""
    for line in block.splitlines():
        if line and not line.startswith(" "):
            break
        if match := re.match(r" {4}(\w+): (.+)", line):
            name = match[1]
            descriptions[name] = match[2]
        elif name and line.strip():
            descriptions[name] += " " + line.strip()
    return descriptions
