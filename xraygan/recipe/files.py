"""Recipe files: find them, read them, merge a recipe with those it extends, and override keys.

A recipe is merged from the bottom up: the recipe that it ``extends`` (and what that one extends),
then its own tables, then ``--set`` overrides. Each later layer wins, key by key. For every key the
merge remembers which file or override set it, so that a fault is reported where it can be mended.
"""

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

#: tables of a recipe, nested
Tree = dict[str, Any]
#: the path of a key in them: ``("generator", "optimizer", "lr")``
Key = tuple[str, ...]

#: begins the origin of a key that an override sets
_SET = "--set"


def run_name(tables: schema.RecipeConfig, source: Path) -> str:
    """A run's name: the recipe's ``[run] name``, or the name of its file."""
    # macOS may have decomposed characters of a file's name.
    return tables.run.name or unicodedata.normalize("NFC", source.stem)


def shipped() -> dict[str, Path]:
    """The recipes that come with the toolkit, by name."""
    package = Path(__file__).parents[1]
    folder = package / "recipes"  # in a wheel; in a checkout it lies beside the package
    folder = folder if folder.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(reference: str | Path, folder: Path | None = None) -> Path:
    """The file of a recipe that is given as a path or, if it is shipped, by name.

    ``recipes/NAME.toml`` finds the shipped recipe too, so that the same command works in a
    checkout and anywhere else.

    Args:
        reference: a path, a shipped name, or ``recipes/NAME.toml``.
        folder: the folder that a relative path starts from; the working directory by default.

    Raises:
        UserError: there is neither such a file nor such a shipped recipe.
    """
    path = (folder or Path()) / reference
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


def read_description(path: Path) -> str:
    """The description of a recipe: the comment at the beginning of its file, as one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def apply_overrides(
    tree: Tree, origins: dict[Key, str], overrides: Iterable[str]
) -> tuple[Tree, dict[Key, str]]:
    """Merge ``"table.key=value"`` overrides into a tree, in their order; changes its arguments.

    An option stays if a later override chooses its plugin.

    Raises:
        UserError: an override is not of that form.
    """
    for override in overrides:
        key, value = parse_override(override)
        _merge(tree, _nest(key, value), origins, f"{_SET} {clipped(override)}")
    return tree, origins


def merge_extended(tree: Tree, path: Path) -> Tree:
    """A recipe's tables merged with those of the recipes it extends, without ``extends``.

    Args:
        tree: the recipe's own tables, as if they were in the file ``path``.
    """
    return merge_with_base(dict(tree), path, ())[0]


def tables_of(path: Path) -> set[str]:
    """The tables of a recipe and of those it extends: ``{"run", "scores", "scores.gram"}``."""
    tree, _ = read_merged(path, ())
    tables = {name for name, table in tree.items() if isinstance(table, dict)}
    return tables | {
        f"{name}.{key}"
        for name in tables
        for key, table in tree[name].items()
        if isinstance(table, dict)
    }


def read_merged(path: Path, chain: tuple[Path, ...]) -> tuple[Tree, dict[Key, str]]:
    """Read a recipe, merged with those it extends, and the file that set each key.

    Args:
        chain: the recipes that led here by ``extends``, to detect a circle.

    Raises:
        RecipeError: a file cannot be read or is no TOML, or recipes extend each other in a circle.
    """
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
    return merge_with_base(tree, path, chain)


def merge_with_base(tree: Tree, path: Path, chain: tuple[Path, ...]) -> tuple[Tree, dict[Key, str]]:
    """Merge a recipe's own tables over those of the recipe it extends; removes ``extends``."""
    base: Tree = {}
    origins: dict[Key, str] = {}
    if (parent := tree.pop("extends", None)) is not None:
        if not isinstance(parent, str):
            raise RecipeError([f"{path}: extends: expected the path of a recipe, found {parent!r}"])
        try:
            base_path = find_recipe(parent, folder=path.parent)
        except UserError as error:
            raise RecipeError([f"{path}: extends: {error}"]) from None
        base, origins = read_merged(base_path, (*chain, path))
    _merge(base, tree, origins, str(path))
    return base, origins


def _merge(base: Tree, over: Tree, origins: dict[Key, str], source: str, at: Key = ()) -> None:
    """Merge ``over`` into ``base``: tables are merged, ``false`` drops a table of the base,
    everything else is replaced.

    Some keys replace others. Another ``plugin`` removes the options of the previous one, except
    those of earlier overrides; ``steps`` and ``epochs`` remove each other; in ``[start]`` a ``run``
    removes all other keys and any key removes the pinned hash, because they describe another
    checkpoint.

    Args:
        at: the key of the table that is merged.
        source: the file or override that ``over`` comes from.
    """
    if _changes_plugin(base, over, at):
        for key in set(base) - _core_keys(at):
            if not origins.get((*at, key), "").startswith(_SET):  # else it is meant for the new one
                del base[key]
    if at == ("run",) and ("steps" in over or "epochs" in over):
        base.pop("steps", None)
        base.pop("epochs", None)
    if at == ("start",):
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


def _changes_plugin(base: Tree, over: Tree, at: Key) -> bool:
    default = at[1] if len(at) == 2 and at[0] in schema.GROUPS else None
    return bool(at) and "plugin" in over and over["plugin"] != base.get("plugin", default)


def _core_keys(at: Key) -> set[str]:
    """The keys of a table that are not options of its plugin."""
    models: dict[str, type[schema.Part]] = {
        "data": schema.Data,
        "scores": schema.Score,
        "labeler": schema.Labeler,
        "objective": schema.Objective,
        "augmenter": schema.Augmenter,
    }
    return set(models.get(at[0], schema.Network).model_fields)


def parse_override(text: str) -> tuple[Key, Any]:
    """A key and a value from ``"table.key=value"``; the value is TOML, or else a plain string.

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


def start_overrides(run: str | Path | None, checkpoint: str | int | None) -> tuple[str, ...]:
    """Overrides that let a recipe start from the networks of another run.

    Args:
        run: its directory, None for none.
        checkpoint: its checkpoint: latest, best or a step; latest by default.

    Raises:
        UserError: there is a checkpoint and no run.
    """
    if run is None:
        if checkpoint is not None:
            raise UserError("--from-checkpoint needs --from RUN, the run that has the checkpoint")
        return ()
    # As quoted TOML strings: a folder may be called 5.
    values = {"run": str(run), "checkpoint": "latest" if checkpoint is None else str(checkpoint)}
    return tuple(f"start.{key}={json.dumps(value)}" for key, value in values.items())


def sets_length(overrides: Iterable[str]) -> bool:
    """Whether overrides set how long a run is."""
    return any(parse_override(o)[0] in (("run", "steps"), ("run", "epochs")) for o in overrides)


def _nest(key: Key, value: Any) -> Tree:
    for part in reversed(key):
        value = {part: value}
    return value


def subtable(tree: Tree, key: Key) -> Tree:
    """The table at a key of a tree; created, with those above it, if it does not exist."""
    for part in key:
        tree = tree.setdefault(part, {})
    return tree


def plain(value: Any) -> Any:
    """An option's value in types that TOML and JSON can write: paths become strings."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value
