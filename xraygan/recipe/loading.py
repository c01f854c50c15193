"""The :class:`Recipe`: load it, check all of it, and write it out with every default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xraygan.parts.part_config import PartConfig
from xraygan.parts.registry import Registry, installed

from . import schema
from .files import (
    Key,
    Tree,
    apply_overrides,
    find_recipe,
    merge_with_base,
    plain,
    read_merged,
    run_name,
    subtable,
)
from .validation import Checker


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        source: the file from which it was read.
        tables: the toolkit's own keys.
        choices: the chosen parts by table name.
    """

    source: Path
    tables: schema.RecipeConfig
    choices: dict[str, PartConfig]

    @classmethod
    def load(cls, reference: str | Path, *overrides: str) -> Recipe:
        """Read and check a recipe: a file, or the name of a shipped one.

        Args:
            overrides: ``"table.key=value"`` each, as ``--set`` on the command line.

        Raises:
            RecipeError: with every fault that was found, a :class:`xraygan.UserError`.
        """
        return load(reference, overrides)

    @property
    def name(self) -> str:
        return run_name(self.tables, self.source)

    def network(self, name: str) -> PartConfig:
        """The choice that a network of the graph comes from: its own table or a score's."""
        return self.choices[name if name in self.choices else f"scores.{name}"]

    def chosen(self, group: str) -> dict[str, PartConfig]:
        """The choices of ``[scores]``, ``[extractors]``, ``[metrics]`` or ``[trackers]``."""
        prefix = group + "."
        return {c.name: c for table, c in self.choices.items() if table.startswith(prefix)}

    def files(self) -> dict[str, Path]:
        """The files that options name, by their keys: ``classifier.weights``."""
        return {
            f"{table}.{name}": value
            for table, choice in self.choices.items()
            for name, value in choice.options.items()
            if isinstance(value, Path)
        }

    def changed(self, *overrides: str) -> Recipe:
        """This recipe with some keys set to other values.

        Args:
            overrides: ``"table.key=value"`` each, as ``--set`` on the command line.

        Raises:
            RecipeError: with every fault that was found.
        """
        return _check_tree(self.source, *apply_overrides(self.resolved(), {}, overrides), None)

    def resolved(self) -> Tree:
        """All that the run depends on, defaults included, as a recipe that extends no other."""
        tree = self.tables.model_dump(exclude_none=True)
        tree["run"] = {"name": self.name, **tree["run"]}
        if self.tables.data.root is not None:
            tree["data"]["root"] = str(Path(self.tables.data.root).resolve())
        if self.tables.start is not None:
            tree["start"]["run"] = str(Path(self.tables.start.run).resolve())
        for table, choice in self.choices.items():
            subtable(tree, tuple(table.split("."))).update(
                {"plugin": choice.config.plugin}
                | {k: plain(v) for k, v in choice.options.items() if v is not None}
            )
        return {k: v for k, v in tree.items() if v != {}}


def load(
    reference: str | Path,
    overrides: Iterable[str] = (),
    registry: Registry | None = None,
    *,
    files: bool = True,
) -> Recipe:
    """Read a recipe and check all of it.

    Args:
        reference: see :func:`xraygan.recipe.files.find_recipe`.
        overrides: ``"table.key=value"`` each; the value is TOML, or a plain string.
        registry: where parts are looked up; the installed plugins by default.
        files: whether the files that options name must exist.

    Raises:
        RecipeError: with every fault that was found.
    """
    path = find_recipe(reference)
    tree, origins = apply_overrides(*read_merged(path, ()), overrides)
    return _check_tree(path, tree, origins, registry, files=files)


def load_tree(
    tree: Tree, path: Path, overrides: Iterable[str] = (), *, trains: bool = True
) -> Recipe:
    """Check a recipe that is given as its tables, as if they were in the file ``path``.

    Args:
        overrides: as for :func:`load`.
        trains: whether something is to be trained; otherwise the recipe needs no network.

    Raises:
        RecipeError: with every fault that was found.
    """
    merged, origins = apply_overrides(*merge_with_base(dict(tree), path, ()), overrides)
    return _check_tree(path, merged, origins, None, trains=trains)


def _check_tree(
    path: Path,
    tree: Tree,
    origins: dict[Key, str],
    registry: Registry | None,
    *,
    files: bool = True,
    trains: bool = True,
) -> Recipe:
    checker = Checker(path, origins, registry or installed(), files=files, trains=trains)
    return Recipe(path, *checker.check(tree))
