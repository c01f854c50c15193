"""The tables of a recipe as its files state them: found, read, extended and overridden."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from xraygan.errors import RecipeError, UserError, clipped, did_you_mean, shown
from xraygan.utils.parsing import is_file, parse_toml, read_text

from . import schema

Tree = dict[str, Any]


Key = tuple[str, ...]


def run_name(tables: schema.Tables, source: Path) -> str:
    """A run's name: the recipe's ``[run] name``, or the name of its file."""
    # macOS may have taken characters of a file's name apart.
    return tables.run.name or unicodedata.normalize("NFC", source.stem)


def shipped() -> dict[str, Path]:
    """The recipes that come with the toolkit, by name."""
    package = Path(__file__).parents[1]
    folder = package / "recipes"  # in a wheel; in a checkout it stands beside the package
    folder = folder if folder.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(reference: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe that is given as a path or, if it is shipped, by name.

    ``recipes/NAME.toml`` finds the shipped recipe too, so that the same command works in a
    checkout and anywhere else.

    Args:
        reference: a path, a shipped name, or ``recipes/NAME.toml``.
        beside: the folder that a relative path starts from; the working directory by default.
    """
    path = (beside or Path()) / reference
    if is_file(path):
        return path
    known = shipped()
    name = _shipped_name(str(reference))
    if name in known:
        return known[name]
    raise UserError(
        f"no recipe at {clipped(str(reference))}: it is neither a file nor shipped "
        f"({did_you_mean(name, known)})"
    )


def find_shipped(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        UserError: there is none of that name.
    """
    known = shipped()
    if (name := _shipped_name(name)) not in known:
        raise UserError(f"no recipe is shipped as {shown(name)}: {did_you_mean(name, known)}")
    return known[name]


def _shipped_name(reference: str) -> str:
    """``NAME`` of ``NAME``, ``NAME.toml`` and ``recipes/NAME.toml``."""
    return reference.removeprefix("recipes/").removesuffix(".toml")


def about(path: Path) -> str:
    """What a recipe says of itself: the comment that it begins with, as one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def overridden(
    tree: Tree, origins: dict[Key, str], overrides: Iterable[str]
) -> tuple[Tree, dict[Key, str]]:
    for override in overrides:
        key, value = parse_override(override)
        _merge(tree, _nest(key, value), origins, f"--set {clipped(override)}")
    return tree, origins


def merged(tree: Tree, path: Path) -> Tree:
    """A recipe's tables with those of what it extends: it names no other file any more.

    Args:
        tree: the tables, as if they stood in the file ``path``.
    """
    return extend(dict(tree), path, ())[0]


def tables_of(path: Path) -> set[str]:
    """The tables of a recipe and of what it extends: ``{"run", "scores", "scores.gram"}``."""
    tree, _ = read(path, ())
    tables = {name for name, table in tree.items() if isinstance(table, dict)}
    return tables | {
        f"{name}.{key}"
        for name in tables
        for key, table in tree[name].items()
        if isinstance(table, dict)
    }


def read(path: Path, chain: tuple[Path, ...]) -> tuple[Tree, dict[Key, str]]:
    """The merged tables of a recipe and of what it extends, and where each key was set."""
    path = path.resolve()
    if path in chain:
        circle = " -> ".join(p.name for p in (*chain[chain.index(path) :], path))
        raise RecipeError([f"{path}: extends: the recipes extend each other in a circle: {circle}"])
    try:
        tree = parse_toml(read_text(path))
    except ValueError as error:
        raise RecipeError([f"{path}: {error}"]) from None
    except OSError as error:
        raise RecipeError([f"{path}: cannot be read ({error.strerror})"]) from None
    return extend(tree, path, chain)


def extend(tree: Tree, path: Path, chain: tuple[Path, ...]) -> tuple[Tree, dict[Key, str]]:
    """Lay a recipe's own tables upon those of what it extends."""
    base: Tree = {}
    origins: dict[Key, str] = {}
    if (parent := tree.pop("extends", None)) is not None:
        if not isinstance(parent, str):
            raise RecipeError([f"{path}: extends: expected the path of a recipe, found {parent!r}"])
        try:
            found = find(parent, beside=path.parent)
        except UserError as error:
            raise RecipeError([f"{path}: extends: {error}"]) from None
        base, origins = read(found, (*chain, path))
    _merge(base, tree, origins, str(path))
    return base, origins


def _merge(base: Tree, over: Tree, origins: dict[Key, str], source: str, at: Key = ()) -> None:
    """Lay ``over`` upon ``base``: tables are merged, ``false`` drops a table of the base's,
    everything else is replaced."""
    if _names_another_plugin(base, over, at):
        # The former plugin's options mean nothing to the new one.
        for key in set(base) - _core_words(at):
            del base[key]
    if at == ("run",) and ("steps" in over or "epochs" in over):
        base.pop("steps", None)
        base.pop("epochs", None)
    if at == ("start",):  # what is known of another run's checkpoint says nothing of this one's
        for key in set(base) if "run" in over else {"sha256"}:
            base.pop(key, None)
    for key, value in over.items():
        origins[(*at, key)] = source
        if value is False and isinstance(base.get(key), dict):
            del base[key]
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, origins, source, (*at, key))
        elif isinstance(value, dict):
            base[key] = {}
            _merge(base[key], value, origins, source, (*at, key))
        else:
            base[key] = value


def _names_another_plugin(base: Tree, over: Tree, at: Key) -> bool:
    default = at[1] if len(at) == 2 and at[0] in schema.GROUPS else None
    return bool(at) and "plugin" in over and over["plugin"] != base.get("plugin", default)


def _core_words(at: Key) -> set[str]:
    models: dict[str, type[schema.Part]] = {
        "data": schema.Data,
        "scores": schema.Score,
        "labeler": schema.Labeler,
        "objective": schema.Objective,
        "augmenter": schema.Augmenter,
    }
    return set(models.get(at[0], schema.Network).model_fields)


def parse_override(text: str) -> tuple[Key, Any]:
    """``"table.key=value"`` as a key and a value.

    Raises:
        UserError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise UserError(
            f"--set {clipped(text)}: expected TABLE.KEY=VALUE, for example run.steps=100"
        )
    try:
        return parts, parse_toml(f"value = {value}")["value"]
    except (ValueError, KeyError):
        return parts, value  # a bare word, such as a path


def start_overrides(run: str | Path | None, which: str | int | None) -> tuple[str, ...]:
    """Overrides that let a recipe start from the networks of another run.

    Args:
        run: its directory, None for none.
        which: its checkpoint: latest, best or a step; latest by default.

    Raises:
        UserError: there is a checkpoint and no run.
    """
    if run is None:
        if which is not None:
            raise UserError("--from-checkpoint needs --from RUN, the run that has the checkpoint")
        return ()
    # As strings of TOML: a folder may be called 5.
    values = {"run": str(run), "checkpoint": "latest" if which is None else str(which)}
    return tuple(f"start.{key}={json.dumps(value)}" for key, value in values.items())


def sets_length(overrides: Iterable[str]) -> bool:
    """Whether overrides set how long a run is."""
    return any(parse_override(o)[0] in (("run", "steps"), ("run", "epochs")) for o in overrides)


def _nest(key: Key, value: Any) -> Tree:
    for part in reversed(key):
        value = {part: value}
    return value


def at(tree: Tree, key: Key) -> Tree:
    for part in key:
        tree = tree.setdefault(part, {})
    return tree


def plain(value: Any) -> Any:
    """An option's value as TOML and JSON can write it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value
