"""The sweep file: reading, checks, and its expansion into rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field, ValidationError

from xraygan.errors import RecipeError, UserError, clipped, did_you_mean, shown
from xraygan.parts.options import plain_reason
from xraygan.recipe import files, loading
from xraygan.recipe.fields import Table
from xraygan.recipe.schema import GROUPS
from xraygan.utils.limits import MOST_RUNS, SEEDS
from xraygan.utils.naming import folder_fault, label_fault
from xraygan.utils.parsing import is_file, parse_toml, read_text

#: tables that every recipe has, if only with defaults
ALWAYS = ("run", "data", "start", "schedule", "evaluation")

#: the preset that only shows that a sweep works
FAST = "fast"

Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=SEEDS)]], Field(min_length=1)]


class Variant(Table):
    """``[[variants]]``: a named set of keys, with its own recipe if it names one."""

    name: str
    recipe: str | None = None
    set: dict[str, Any] = Field({})


class Layout(Table):
    """``[table]``: the columns of the table, and the comparison of its rows.

    ``paper`` holds the published figures by the labels of rows, in the order of ``metrics``, with
    NaN for an unpublished one. ``baseline`` is the label of the row that the other rows are
    compared with, paired by seed and patient. If it is the name of a variant in a grid, each row is
    compared with the baseline at its own grid point. ``primary`` is the metric whose differences
    are tested, with p adjusted for their number; the first metric by default. ``difference`` is the
    smallest difference of interest in it: the table says how many seeds would be needed to find it.
    """

    metrics: Annotated[list[str], Field(min_length=1)]
    paper: dict[str, list[Annotated[float, Field(allow_inf_nan=True)]]] = Field({})
    baseline: str | None = None
    primary: str | None = None
    difference: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01


class Preset(Table):
    """``[presets.NAME]``: the changes of ``--preset NAME``, to all rows and to single variants."""

    seeds: Seeds | None = None
    set: dict[str, Any] = Field({})
    variants: dict[str, dict[str, Any]] = Field({})


class SweepFile(Table):
    """A whole sweep file."""

    title: str
    recipe: str | None = None
    seeds: Seeds = Field([0])
    set: dict[str, Any] = Field({})
    grid: dict[str, Any] = Field({})
    variants: list[Variant] = Field([])
    table: Layout
    presets: dict[str, Preset] = Field({})


@dataclass(frozen=True)
class Row:
    """One row of the table: a recipe and the keys that override it.

    Attributes:
        label: the name of the variant and the values of the grid.
        variant: the name of the variant, "" without variants.
        point: the values of the grid, joined.
        over: the overriding values by their dotted keys.
        by_seed: those of single seeds, which override the others.
    """

    label: str
    variant: str
    point: str
    recipe: str
    over: dict[str, Any]
    by_seed: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as a folder name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower().replace("+", "plus ")).strip("-")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: the name of the file, and of the preset.
        preset: the name of the preset, empty without one.
        changed: the keys that the preset and ``--set`` changed, for the table.
    """

    source: Path
    name: str
    title: str
    seeds: list[int]
    rows: list[Row]
    table: Layout
    preset: str
    changed: dict[str, Any]

    @property
    def reduced(self) -> bool:
        """Whether the sweep only shows that it works, so that its figures are not results."""
        return self.preset == FAST

    def tree(self, row: Row, seed: int) -> dict[str, Any]:
        """The recipe of one run: the recipe that it extends, and its own keys."""
        tree: dict[str, Any] = {"extends": row.recipe}
        set_keys(tree, row.over | row.by_seed.get(seed, {}))
        set_keys(tree, {"run.name": f"{row.slug}-seed-{seed}", "run.seed": seed})
        return tree

    def recipe(self, row: Row, seed: int) -> loading.Recipe:
        """The checked recipe of one run."""
        return loading.load_tree(self.tree(row, seed), self.source)

    def recipe_text(self, row: Row, seed: int) -> str:
        """The recipe file of one run; it extends no other file, so that it can be moved."""
        return tomli_w.dumps(files.merge_extended(self.tree(row, seed), self.source))


def shipped() -> dict[str, Path]:
    """The sweeps that come with the toolkit, by name."""
    folder = next(iter(files.shipped().values())).parent / "sweeps"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(reference: str | Path) -> Path:
    """The file of a sweep, from its path or from the name of a shipped sweep.

    Raises:
        UserError: there is no such file or shipped sweep.
    """
    if is_file(path := Path(reference)):
        return path
    known = shipped()
    text = str(reference)
    name = text.removeprefix("recipes/sweeps/").removesuffix(".toml")
    if name in known and text in (name, f"{name}.toml", f"recipes/sweeps/{name}.toml"):
        return known[name]
    raise UserError(
        f"no sweep at {clipped(str(reference))}: it is neither a file nor a shipped sweep "
        f"({did_you_mean(name, known)})"
    )


def load(reference: str | Path, overrides: Iterable[str] = (), preset: str = "") -> Sweep:
    """Read a sweep and check every recipe that it will run.

    Args:
        reference: see :func:`find`.
        overrides: as for :func:`xraygan.recipe.loading.load`; they apply to every run.
        preset: the name of one of the file's presets.

    Raises:
        RecipeError: with every fault of the file, or of the first row that has any.
    """
    path = find(reference).resolve()
    config = _read(path)
    if preset and preset not in config.presets:
        raise UserError(
            f"{path}: no preset is named {preset!r}; {did_you_mean(preset, config.presets)}"
        )
    selected = config.presets.get(preset, Preset())
    overriding = {".".join(key): value for key, value in map(files.parse_override, overrides)}
    changed = {**flatten(selected.set), **overriding}
    # One more than the limit: a grid of eight axes of a hundred values would never end.
    rows = list(itertools.islice(_rows(path, config, selected, overriding), MOST_RUNS + 1))
    name = f"{path.stem}-{preset}" if preset else path.stem
    seeds = selected.seeds or config.seeds
    _check_amount(path, rows, seeds)
    sweep = Sweep(path, name, config.title, seeds, rows, config.table, preset, changed)
    _check_labels(sweep)
    for row in rows:
        try:
            sweep.recipe(row, seeds[0])
        except UserError as error:
            raise UserError(f"row {row.label!r}: {error}") from None
    return sweep


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; a key may be dotted already, and an empty table is kept."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat


def set_keys(tree: dict[str, Any], flat: Mapping[str, Any]) -> None:
    """Set dotted keys in nested tables."""
    for key, value in flat.items():
        *tables, last = key.split(".")
        parent = tree
        for table in tables:
            child = parent.get(table)
            parent[table] = parent = child if isinstance(child, dict) else {}
        parent[last] = value


def _read(path: Path) -> SweepFile:
    try:
        return SweepFile.model_validate(parse_toml(read_text(path)))
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            reason = plain_reason({**fault, "loc": ()})  # type: ignore[typeddict-item]
            if fault["type"] == "extra_forbidden":
                known = SweepFile.model_fields if len(fault["loc"]) == 1 else {}
                reason = f"unknown key; {did_you_mean(key, known)}" if known else "unknown key"
            faults.append(f"{path}: {key}: {reason}")
        raise RecipeError(faults, "sweep") from None
    except ValueError as error:
        raise RecipeError([f"{path}: {error}"], "sweep") from None
    except OSError as error:
        raise RecipeError([f"{path}: cannot be read ({error.strerror})"], "sweep") from None


def _rows(
    path: Path, config: SweepFile, preset: Preset, overriding: Mapping[str, Any]
) -> Iterable[Row]:
    # The keys of a row, later ones overriding earlier ones: the sweep's, the variant's, the grid's,
    # the preset's, those of --set, and the preset's for this variant. Keys for all rows apply only
    # where a row has their table. A key that no row uses is a fault.
    axes = flatten(config.grid)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise RecipeError(
                [f"{path}: grid.{key}: expected a list of values, found {values!r}"], "sweep"
            )
    unused = {**flatten(config.set), **flatten(preset.set), **overriding}
    for variant in config.variants or [Variant(name="")]:
        reference = variant.recipe or config.recipe
        if reference is None:
            where = f"variant {variant.name!r}" if variant.name else "the sweep"
            raise RecipeError([f"{path}: {where} names no recipe"], "sweep")
        file = files.find_recipe(reference, folder=path.parent).resolve()
        of_variant = flatten(variant.set)
        tables = files.tables_of(file)
        tables |= {_table(key) for key, value in of_variant.items() if value is not False}

        def fitting(tree: Mapping[str, Any], tables: set[str] = tables) -> dict[str, Any]:
            """The keys for all rows, without those inside tables that this row lacks."""
            flat = {k: v for k, v in flatten(tree).items() if _fits(k, v, tables)}
            for key in flat:
                unused.pop(key, None)
            return flat

        common, last = fitting(config.set), {**fitting(preset.set), **fitting(overriding)}
        last |= flatten(preset.variants.get(variant.name, {}))
        for values in itertools.product(*axes.values()):
            point = ", ".join(map(str, values))
            label = ", ".join(filter(None, (variant.name, point))) or path.stem
            over = {**common, **of_variant, **dict(zip(axes, values, strict=True))}
            yield Row(label, variant.name, point, str(file), {**over, **last})
    if unused:
        raise RecipeError(
            [f"{path}: {key}: no row's recipe has such a table" for key in unused], "sweep"
        )


def _fits(key: str, value: Any, tables: set[str]) -> bool:
    """Whether a dotted key applies to a row with these tables: it is inside one, or adds one."""
    table = _table(key)
    adds = key == table and value is not False
    return adds or table in tables or key.split(".")[0] in ALWAYS


def _table(key: str) -> str:
    """The table of a dotted key: `scores.gram` for `scores.gram.weight` and for itself."""
    parts = key.split(".")
    return ".".join(parts[: 2 if parts[0] in GROUPS else 1])


def _check_amount(path: Path, rows: list[Row], seeds: list[int]) -> None:
    faults: list[str] = []
    if len(rows) * len(seeds) > MOST_RUNS:
        faults.append(f"the grid, the variants and the seeds make more than {MOST_RUNS:,} runs")
    elif len({*seeds}) < len(seeds):
        repeated = next(seed for seed in seeds if seeds.count(seed) > 1)
        faults.append(f"seeds: {repeated} is listed twice; its runs would share a folder")
    if faults:
        raise RecipeError([f"{path}: {fault}" for fault in faults], "sweep")


def _check_names(sweep: Sweep) -> Iterator[str]:
    """The faults of names that become folder names and headings of the table."""
    if fault := folder_fault(sweep.name):
        yield f"the sweep's name {shown(sweep.name)}, from its file and preset, {fault}"
    for row in sweep.rows:
        name = f"{row.slug}-seed-{max(sweep.seeds)}"
        if fault := label_fault(row.label):
            yield f"the name of the row {shown(row.label)} {fault}"
        elif fault := folder_fault(name):
            yield (
                f"the runs of the row {shown(row.label)} would be named {shown(name)}, which "
                f"{fault}; give its variant another name"
            )


def _check_labels(sweep: Sweep) -> None:
    labels = [row.label for row in sweep.rows]
    slugs = [row.slug for row in sweep.rows]
    faults = [*_check_names(sweep)]
    faults += [f"two rows are called {label!r}" for label in {*labels} if labels.count(label) > 1]
    if not faults and len({*slugs}) < len(slugs):
        faults.append("two rows have names that differ only in signs, and would share a folder")
    for label, figures in sweep.table.paper.items():
        if label not in labels:
            faults.append(f"table.paper: no row is called {label!r}; {did_you_mean(label, labels)}")
        elif len(figures) != len(sweep.table.metrics):
            expected = len(sweep.table.metrics)
            faults.append(f"table.paper.{label!r}: {len(figures)} figures for {expected} metrics")
    variants = {row.variant for row in sweep.rows}
    if (base := sweep.table.baseline) is not None and base not in variants | {*labels}:
        faults.append(f"table.baseline: no row is called {base!r}; {did_you_mean(base, labels)}")
    if (primary := sweep.table.primary) is not None and primary not in sweep.table.metrics:
        faults.append(f"table.primary: {did_you_mean(primary, sweep.table.metrics)}")
    if faults:
        raise RecipeError([f"{sweep.source}: {fault}" for fault in faults], "sweep")
