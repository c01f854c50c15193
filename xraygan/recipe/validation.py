"""Checks a merged recipe as a whole, and reports every fault at once, before any work begins."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xraygan.errors import RecipeError, UserError, clipped, did_you_mean, shown
from xraygan.parts.options import check_options, plain_reason
from xraygan.parts.part_config import PartConfig
from xraygan.parts.registry import Registry
from xraygan.utils.naming import HALVES, LOGGED, colliding_names, folder_fault, word_fault

from . import schema
from .files import Key, Tree, run_name

#: parts that need each other
_ADVERSARIAL = ("generator", "discriminator", "objective")

#: names that a score cannot have: those of networks, of terms, and of the other values in a logged
#: line
_RESERVED = (
    "generator", "discriminator", "classifier", "augmenter", "classification", "pseudo_label",
    "pseudo_label_kept", "discriminator_accuracy", *LOGGED,
)  # fmt: skip

#: of an integer of TOML
_BITS = 64

#: how pydantic marks the branch of a union in an error's location
_UNION_MARKS = ("literal[", "constrained-", "list[", "tuple[", "function-")


#: a key that TOML takes without quotes
_BARE = re.compile(r"[\w-]+")


@dataclass
class Checker:
    """Checks one merged tree, and collects every fault before it raises.

    The checks go from values to meaning, and each stage needs a tree that passed the one before:
    values that TOML can hold, the schema of the toolkit's keys, names, plugins and their options,
    and finally whether the chosen parts fit each other.

    Attributes:
        path: the recipe's file.
        origins: key -> the file or override that set it.
        registry: where parts are looked up.
        files: whether the files that options name must exist.
        trains: whether something is to be trained, so that there must be a network.
    """

    path: Path
    origins: Mapping[Key, str]
    registry: Registry
    faults: list[str] = field(default_factory=list)
    files: bool = True
    trains: bool = True

    def check(self, tree: Tree) -> tuple[schema.RecipeConfig, dict[str, PartConfig]]:
        """The checked tables, and the chosen parts by table name.

        Raises:
            RecipeError: with every fault that was found.
        """
        self._check_values((), tree)
        if self.faults:
            raise RecipeError(self.faults)
        for group in schema.GROUPS:  # a table's name is its plugin, unless `plugin` names one
            tables = tree.get(group)
            for name, table in tables.items() if isinstance(tables, dict) else ():
                if isinstance(table, dict):
                    table.setdefault("plugin", name)
        try:
            # Through JSON, in which pydantic's strict mode accepts a list for a tuple.
            tables = schema.RecipeConfig.model_validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            for fault in error.errors():
                self._add_schema_fault(fault)
            raise RecipeError(self.faults) from None
        self._check_names(tables)
        choices = self._choose_parts(tables)
        choices |= self._implied_extractors(choices)
        if not self.faults:
            self._check_combination(tables, choices)
        if self.faults:
            raise RecipeError(self.faults)
        return tables, choices

    def add_fault(self, key: Key, message: str) -> None:
        """Record a fault with the file that set the key, or the nearest table above it."""
        for length in range(len(key), -1, -1):
            if source := self.origins.get(key[:length]):
                break
        else:
            source = str(self.path)
        self.faults.append(f"{source}: {_format_key(key)}: {message}")

    def _check_values(self, key: Key, value: Any) -> None:
        """Check that values are such as a TOML file can have, because ``--set`` takes any text."""
        if isinstance(value, dict):
            for name, child in value.items():
                self._check_values((*key, name), child)
        elif isinstance(value, list):
            for child in value:
                self._check_values(key, child)
        elif isinstance(value, int) and not -(2 ** (_BITS - 1)) <= value < 2 ** (_BITS - 1):
            self.add_fault(key, f"expected a number of at most {_BITS} bits, found {shown(value)}")
        elif isinstance(value, str) and HALVES.search(value):
            self.add_fault(key, f"{shown(value)} is not UTF-8 text; rename the file or folder")

    def _check_names(self, tables: schema.RecipeConfig) -> None:
        """Check every name that the recipe gives by the rules of :mod:`xraygan.utils.naming`."""
        name = run_name(tables, self.path)
        if fault := folder_fault(name):
            origin = "" if tables.run.name else ", after the recipe's file"
            self.add_fault(
                ("run", "name"),
                f"the run would be called {shown(name)}{origin}: the name {fault}; set another "
                "name",
            )
        for group in schema.GROUPS:
            names = getattr(tables, group)
            for name in names:
                if fault := word_fault(name):
                    hint = 'rename the table, and set plugin = "NAME" to name its part'
                    self.add_fault((group, name), f"the name {shown(name, 40)} {fault}; {hint}")
            if twins := colliding_names(names):
                self.add_fault(
                    (group, twins[1]),
                    f"differs from [{group}.{twins[0]}] in upper and lower case alone, which some "
                    "file systems do not tell apart; rename one",
                )

    def _add_schema_fault(self, error: Any) -> None:
        """Record a fault that pydantic found."""
        key = tuple(str(part) for part in error["loc"] if not str(part).startswith(_UNION_MARKS))
        if error["type"] == "extra_forbidden":
            known = _fields_at(schema.RecipeConfig, key[:-1])
            self.add_fault(
                key,
                f"unknown {'table' if len(key) == 1 else 'key'}; {did_you_mean(key[-1], known)}",
            )
        elif error["type"] == "missing":
            self.add_fault(key, "is required and missing")
        else:
            reason = plain_reason({**error, "loc": ()}).removeprefix("value error, ")
            value = "" if isinstance(error["input"], dict) else f", found {shown(error['input'])}"
            self.add_fault(key, reason + value)

    def _choose_parts(self, tables: schema.RecipeConfig) -> dict[str, PartConfig]:
        """Find the plugin of each table, and check its options; by table name."""
        choices: dict[str, PartConfig] = {}
        for table, (kind, config) in tables.parts().items():
            group, dot, name = table.partition(".")
            if dot and word_fault(name):  # reported already
                continue
            key = (group, name) if dot else (group,)
            try:
                part = self.registry.get(kind, config.plugin)
                options, faults = check_options(part.cls, config.options)
            except UserError as error:
                plugin_key = (*key, "plugin")
                self.add_fault(plugin_key if plugin_key in self.origins else key, str(error))
                continue
            for name, message in faults.items():
                self.add_fault((*key, name), message)
            for name, value in options.items():
                if isinstance(value, Path) and self.files:
                    options[name] = self._existing_file((*key, name), value)
            choices[table] = PartConfig(table, part, config, options)
        return choices

    def _existing_file(self, key: Key, path: Path) -> Path:
        """The absolute path of a file that an option names; a fault if it does not exist."""
        try:
            return path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            self.add_fault(key, f"no such file: {path}")
        except (OSError, ValueError) as error:  # too long, or with a zero byte
            self.add_fault(key, f"no file can be called {str(path)[:60]!r} ({error})")
        return path

    def _check_combination(
        self, tables: schema.RecipeConfig, choices: dict[str, PartConfig]
    ) -> None:
        """Check that the chosen parts fit each other."""
        present = [kind for kind in _ADVERSARIAL if kind in choices]
        for kind in _ADVERSARIAL:
            if present and kind not in present:
                self.add_fault((kind,), f"is missing: [{present[0]}] needs it")
        if "augmenter" in choices and "discriminator" not in choices:
            self.add_fault(("augmenter",), "needs a [discriminator], and the recipe has none")
        if self.trains and "classifier" not in choices and "generator" not in choices:
            self.add_fault(
                ("classifier",), "is missing: a run trains a generator, a classifier or both"
            )
        if (
            tables.classifier
            and not tables.classifier.weight
            and not ({"generator", "labeler"} & {*choices} or tables.scores)
        ):
            self.add_fault(
                ("classifier", "weight"),
                "is 0, and the recipe has nothing else that the classifier could learn from",
            )
        if {"generator", "discriminator"} <= set(choices):
            g, d = choices["generator"].part.cls, choices["discriminator"].part.cls
            if g.conditional != d.conditional:  # type: ignore[attr-defined]
                kinds = {True: "conditional", False: "unconditional"}
                self.add_fault(
                    ("discriminator", "plugin"),
                    f"{choices['discriminator'].part.name!r} is {kinds[d.conditional]}, "  # type: ignore[attr-defined]
                    f"but the generator {choices['generator'].part.name!r} is "
                    f"{kinds[g.conditional]}",  # type: ignore[attr-defined]
                )
        networks: list[str] = [
            k for k in ("generator", "discriminator", "classifier") if k in choices
        ]
        networks += [c.name for t, c in choices.items() if t.startswith("scores.")]
        self._check_generated(tables, choices)
        self._check_terms(tables, choices, networks)
        self._check_phases(tables, networks)
        self._check_labeler_condition(choices)

    def _check_generated(self, tables: schema.RecipeConfig, choices: dict[str, PartConfig]) -> None:
        """Check that a recipe with ``[data.generated]`` trains a classifier alone, by steps."""
        if tables.data.generated is None:
            return
        key = ("data", "generated")
        if "generator" in choices:
            self.add_fault(
                key,
                "these images are for a classifier, and a [generator] would learn to generate "
                "generated images; remove one of the two",
            )
        elif "classifier" not in choices:
            self.add_fault(key, "needs a [classifier], and the recipe has none")
        if tables.run.epochs is not None:
            self.add_fault(
                ("run", "epochs"),
                "an epoch of real images has another length than one with generated images; set "
                "run.steps instead",
            )

    def _check_terms(
        self, tables: schema.RecipeConfig, choices: dict[str, PartConfig], networks: list[str]
    ) -> None:
        """Check that the recipe has the networks that its scores and its labeler need.

        Args:
            networks: the names of all networks of the recipe.
        """
        exclusive = tables.data.label_policy == "single" or choices["data"].part.cls.exclusive  # type: ignore[attr-defined]
        for table, choice in choices.items():
            key, cls = tuple(table.split(".")), choice.part.cls
            if table == "labeler":
                reads: tuple[str, ...] = ("generator", "classifier")
            elif table.startswith("scores."):
                if (
                    choice.name.lower() in _RESERVED
                ):  # some file systems ignore upper and lower case
                    self.add_fault(
                        key,
                        f"a score cannot be called {choice.name!r}, which is taken; rename the "
                        'table, and set plugin = "NAME" to name its score',
                    )
                reads = cls.networks_read(choice.options)  # type: ignore[attr-defined]
                if cls.exclusive_only and not exclusive:  # type: ignore[attr-defined]
                    self.add_fault(
                        key, 'needs exclusive classes, but [data] label_policy is "multi"'
                    )
            else:
                continue
            for network in reads:
                if network not in networks:
                    self.add_fault(key, f"needs a [{network}], and the recipe has none")
            for network in cls.averages:  # type: ignore[attr-defined]
                if network in choices and not choices[network].config.average:
                    self.add_fault(
                        (network, "average"),
                        f"is 0, and [{table}] needs an average of the {network}: set it, to 0.99 "
                        "for example",
                    )
            for name in choice.config.trains or ():
                if name not in networks:
                    self.add_fault(
                        (*key, "trains"),
                        f"no network is named {name!r}; {did_you_mean(name, networks)}",
                    )

    def _check_phases(self, tables: schema.RecipeConfig, networks: list[str]) -> None:
        """Check that the networks that wait in a phase exist."""
        for i, phase in enumerate(tables.schedule.phases):
            for name in phase.waits:
                if name not in networks:
                    self.add_fault(
                        ("schedule", "phases", str(i), "waits"),
                        f"no network is named {name!r}; {did_you_mean(name, networks)}",
                    )

    def _check_labeler_condition(self, choices: dict[str, PartConfig]) -> None:
        """Check that the generator is conditional if the labeler needs its condition."""
        if (labeler := choices.get("labeler")) and labeler.part.cls.needs_condition:  # type: ignore[attr-defined]
            generator = choices.get("generator")
            if generator and not generator.part.cls.conditional:  # type: ignore[attr-defined]
                self.add_fault(
                    ("labeler", "plugin"),
                    f"{labeler.part.name!r} needs a conditional generator, and "
                    f"{generator.part.name!r} is not",
                )

    def _implied_extractors(self, choices: dict[str, PartConfig]) -> dict[str, PartConfig]:
        """The extractors that scores and metrics read and no table defines, with default options.

        A metric that reads ``classifier`` reads the features of the run's own classifier, for which
        no extractor is needed.
        """
        implied: dict[str, PartConfig] = {}
        for table, reader in choices.items():
            group = table.partition(".")[0]
            name = reader.options.get("extractor") if group in ("scores", "metrics") else None
            target = f"extractors.{name}"
            if not name or target in choices:
                continue
            own_classifier = group == "metrics" and name == "classifier"
            if own_classifier or (group == "scores" and reader.config.weight == 0):
                continue
            try:
                part = self.registry.get("extractor", name)
                options, faults = check_options(part.cls, {})
            except UserError as error:
                self.add_fault((*table.split("."), "extractor"), str(error))
                continue
            for option, message in faults.items():
                self.add_fault(("extractors", name, option), message)
            implied[target] = PartConfig(target, part, schema.Named(plugin=name), options)
        return implied


def _fields_at(model: Any, key: Key) -> list[str]:
    """The names of the fields of the table at a key, below a pydantic model."""
    for part in key:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in options if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)


def _format_key(key: Key) -> str:
    """A key as it is written in a recipe: ``[scores.gram] weight``."""
    parts = [clipped(part if _BARE.fullmatch(part) else json.dumps(part)) for part in key]
    if len(key) == 1 or (len(key) == 2 and key[0] in schema.GROUPS):
        return f"[{'.'.join(parts)}]"  # a table itself
    if not key:
        return "recipe"
    return f"[{'.'.join(parts[:-1])}] {parts[-1]}"
