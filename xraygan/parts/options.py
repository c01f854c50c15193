"""The options of a part: the keyword-only parameters of its constructor, and their checks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from xraygan.errors import UserError, did_you_mean, shown

REQUIRED = inspect.Parameter.empty

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Option:
    """One option of a part: its name, annotation and default (:data:`REQUIRED` without one)."""

    name: str
    type: Any
    default: Any

    @property
    def type_text(self) -> str:
        """The type in terms of a recipe: ``number > 0``, ``"a" | "b"``."""
        return type_text(self.type)


@cache
def options_of(cls: type) -> dict[str, Option]:
    """The options of a part's class, in the order of its signature.

    Raises:
        UserError: an option's annotation names a type that cannot be found.
    """
    constructor = inspect.unwrap(cls.__init__)  # type: ignore[misc]
    parameters = inspect.signature(constructor).parameters.values()
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    # Only of the options: the types of other parameters may be imported for type checkers alone.
    annotated = SimpleNamespace(
        __annotations__={p.name: p.annotation for p in options if p.annotation is not p.empty}
    )
    try:
        hints = get_type_hints(annotated, getattr(constructor, "__globals__", {}), {}, True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise UserError(
            f"{cls.__qualname__}: an option's annotation cannot be resolved: {error}"
        ) from error
    return {p.name: Option(p.name, hints.get(p.name, Any), p.default) for p in options}


def takes_positional(cls: type) -> bool:
    """Whether the constructor takes arguments from the core besides its options."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def check_options(cls: type, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Check a recipe's values against a part's options.

    Returns:
        The options with defaults, and the faults: key -> why its value is wrong.
    """
    known = options_of(cls)
    resolved: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for key in values:
        if key not in known:
            faults[key] = f"unknown option; {did_you_mean(key, known)}"
    for name, option in known.items():
        if name in values:
            try:
                resolved[name] = check_value(option.type, values[name])
            except PydanticUserError as error:
                reason = error.message.splitlines()[0]
                faults[name] = f"the plugin's annotation cannot be checked: {reason}"
            except ValueError as error:
                faults[name] = str(error)
        elif option.default is REQUIRED:
            faults[name] = f"is required: expected {option.type_text}"
        else:
            resolved[name] = option.default
    return resolved, faults


def check_value(annotation: Any, value: Any) -> Any:
    """A TOML value as the annotated type, without conversion: no string becomes a number.

    Raises:
        ValueError: the value does not fit; the message says what was expected and what was found.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=_STRICT)
    try:
        # As JSON, for which strict checks still accept a list for a tuple and 1 for 1.0.
        return adapter.validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        reasons = "; ".join(plain_reason(e) for e in error.errors())
        raise ValueError(
            f"expected {type_text(annotation)}, found {shown(value)} ({reasons})"
        ) from None


def plain_reason(error: Mapping[str, Any]) -> str:
    """A message of pydantic in lower case, with the position inside the value if it has one."""
    where = ".".join(str(part) for part in error["loc"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{where}: {message}" if where else message


_PLAIN = {
    int: "integer", float: "number", str: "string", bool: "true or false", type(None): "nothing",
    dict: "table", Path: "path", Any: "anything",
}  # fmt: skip


def allows_literal(annotation: Any, value: str) -> bool:
    """Whether an option's annotation lists a value, as ``Literal["imagenet", "random"] | Path``."""
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    return any(allows_literal(part, value) for part in get_args(annotation))


def type_text(annotation: Any) -> str:
    """An annotation in terms of a TOML recipe."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = " and ".join(filter(None, (_bounds(meta) for meta in args[1:])))
        return " ".join(filter(None, (type_text(args[0]), bounds)))
    if origin is Literal:
        return " | ".join(json.dumps(a) for a in args)
    if origin in (Union, UnionType):
        return " or ".join(type_text(a) for a in args if a is not type(None))
    if origin in (tuple, list):
        if (len(args) == 2 and args[1] is Ellipsis) or origin is list:
            return f"list of {type_text(args[0])}"
        return "[" + ", ".join(type_text(a) for a in args) + "]"
    if origin is dict:
        return "table"
    return _PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(meta: Any) -> str:
    metas = meta.metadata if isinstance(meta, FieldInfo) else [meta]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "of length >="}
    return " and ".join(
        f"{sign} {getattr(m, name)}"
        for m in metas
        for name, sign in signs.items()
        if getattr(m, name, None) is not None
    )
