"""A recipe checked as a whole: every fault is found before any work begins."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xraygan.errors import RecipeError, UserError, clipped, nearest, shown
from xraygan.parts.choice import Choice
from xraygan.parts.options import check_options, plain_reason
from xraygan.parts.registry import Registry
from xraygan.utils.naming import HALVES, LOGGED, colliding_names, folder_fault, word_fault

from . import schema
from .files import Key, Tree, run_name

#: parts that make no sense one without the other
_ADVERSARIAL = ("generator", "discriminator", "objective")

#: names that a score cannot have: networks and terms of every recipe, and what stands beside the
#: terms in a line of the log
_TAKEN = (
    "generator", "discriminator", "classifier", "augmenter", "classification", "pseudo_label",
    "pseudo_label_kept", "discriminator_accuracy", *LOGGED,
)  # fmt: skip

#: what an integer of TOML can hold
_BITS = 64

#: how pydantic marks the branch of a union in an error's location
_UNION_MARKS = ("literal[", "constrained-", "list[", "tuple[", "function-")


#: a key that TOML takes without quotes
_BARE = re.compile(r"[\w-]+")


@dataclass
class Checker:
    """Checks one merged tree and gathers every fault before it gives up.

    Attributes:
        files: whether the files that options name must be there.
    """

    path: Path
    origins: Mapping[Key, str]
    registry: Registry
    faults: list[str] = field(default_factory=list)
    files: bool = True

    def check(self, tree: Tree) -> tuple[schema.Tables, dict[str, Choice]]:
        """The checked tables, and the chosen parts by table name.

        Raises:
            RecipeError: with every fault that was found.
        """
        self._check_values((), tree)
        if self.faults:
            raise RecipeError(self.faults)
        for group in schema.GROUPS:  # the key names the plugin unless `plugin` does
            tables = tree.get(group)
            for name, table in tables.items() if isinstance(tables, dict) else ():
                if isinstance(table, dict):
                    table.setdefault("plugin", name)
        try:
            # Through JSON, where strict checking still takes a list for a tuple.
            checked = schema.Tables.model_validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            for fault in error.errors():
                self._schema_fault(fault)
            raise RecipeError(self.faults) from None
        self._check_names(checked)
        choices = self._choose(checked)
        choices |= self._implied_extractors(choices)
        if not self.faults:
            self._check_together(checked, choices)
        if self.faults:
            raise RecipeError(self.faults)
        return checked, choices

    def fault(self, key: Key, message: str) -> None:
        """Record a fault, naming the file that set the key or the nearest table above it."""
        for length in range(len(key), -1, -1):
            if source := self.origins.get(key[:length]):
                break
        else:
            source = str(self.path)
        self.faults.append(f"{source}: {_show(key)}: {message}")

    def _check_values(self, key: Key, value: Any) -> None:
        """Hold that values are those that a file of TOML can have: ``--set`` takes any text."""
        if isinstance(value, dict):
            for name, below in value.items():
                self._check_values((*key, name), below)
        elif isinstance(value, list):
            for below in value:
                self._check_values(key, below)
        elif isinstance(value, int) and not -(2 ** (_BITS - 1)) <= value < 2 ** (_BITS - 1):
            self.fault(key, f"expected a number of at most {_BITS} bits, found {shown(value)}")
        elif isinstance(value, str) and HALVES.search(value):
            self.fault(key, f"{shown(value)} is not UTF-8 text; rename the file or folder")

    def _check_names(self, tables: schema.Tables) -> None:
        """Hold every name that the recipe gives to the rule of :mod:`xraygan.utils.naming`."""
        name = run_name(tables, self.path)
        if fault := folder_fault(name):
            by = "" if tables.run.name else ", after the recipe's file"
            self.fault(
                ("run", "name"),
                f"the run would be called {shown(name)}{by}: the name {fault}; set another name",
            )
        for group in schema.GROUPS:
            names = getattr(tables, group)
            for name in names:
                if fault := word_fault(name):
                    hint = "rename the table, and say with plugin = which part it is"
                    self.fault((group, name), f"the name {shown(name, 40)} {fault}; {hint}")
            if twins := colliding_names(names):
                self.fault(
                    (group, twins[1]),
                    f"differs from [{group}.{twins[0]}] in upper and lower case alone, which some "
                    "file systems do not tell apart; rename one",
                )

    def _schema_fault(self, error: Any) -> None:
        key = tuple(str(part) for part in error["loc"] if not str(part).startswith(_UNION_MARKS))
        if error["type"] == "extra_forbidden":
            known = _fields_at(schema.Tables, key[:-1])
            self.fault(
                key, f"unknown {'table' if len(key) == 1 else 'key'}; {nearest(key[-1], known)}"
            )
        elif error["type"] == "missing":
            self.fault(key, "is required and missing")
        else:
            reason = plain_reason({**error, "loc": ()}).removeprefix("value error, ")
            found = "" if isinstance(error["input"], dict) else f", found {shown(error['input'])}"
            self.fault(key, reason + found)

    def _choose(self, tables: schema.Tables) -> dict[str, Choice]:
        chosen: dict[str, Choice] = {}
        for table, (kind, words) in tables.parts().items():
            group, dot, name = table.partition(".")
            if dot and word_fault(name):  # it was said
                continue
            key = (group, name) if dot else (group,)
            try:
                part = self.registry.get(kind, words.plugin)
                options, faults = check_options(part.cls, words.options)
            except UserError as error:
                named = (*key, "plugin")
                self.fault(named if named in self.origins else key, str(error))
                continue
            for name, message in faults.items():
                self.fault((*key, name), message)
            for name, value in options.items():
                if isinstance(value, Path) and self.files:
                    options[name] = self._existing((*key, name), value)
            chosen[table] = Choice(table, part, words, options)
        return chosen

    def _existing(self, key: Key, path: Path) -> Path:
        """A file that an option names, absolute."""
        try:
            found = path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            self.fault(key, f"no such file: {path}")
        except (OSError, ValueError) as error:  # too long, or with a zero byte
            self.fault(key, f"no file can be called {str(path)[:60]!r} ({error})")
        else:
            return found
        return path

    def _check_together(self, tables: schema.Tables, choices: dict[str, Choice]) -> None:
        """Check that the chosen parts fit each other."""
        present = [kind for kind in _ADVERSARIAL if kind in choices]
        for kind in _ADVERSARIAL:
            if present and kind not in present:
                self.fault((kind,), f"is missing: [{present[0]}] needs it")
        if "augmenter" in choices and "discriminator" not in choices:
            self.fault(("augmenter",), "needs a [discriminator], and the recipe has none")
        if "classifier" not in choices and "generator" not in choices:
            self.fault(
                ("classifier",), "is missing: a run trains a generator, a classifier or both"
            )
        if {"generator", "discriminator"} <= set(choices):
            g, d = choices["generator"].part.cls, choices["discriminator"].part.cls
            if g.conditional != d.conditional:  # type: ignore[attr-defined]
                words = {True: "conditional", False: "unconditional"}
                self.fault(
                    ("discriminator", "plugin"),
                    f"{choices['discriminator'].part.name!r} is {words[d.conditional]}, "  # type: ignore[attr-defined]
                    f"but the generator {choices['generator'].part.name!r} is "
                    f"{words[g.conditional]}",  # type: ignore[attr-defined]
                )
        self._check_terms(tables, choices)

    def _check_terms(self, tables: schema.Tables, choices: dict[str, Choice]) -> None:
        networks: list[str] = [
            k for k in ("generator", "discriminator", "classifier") if k in choices
        ]
        networks += [c.name for t, c in choices.items() if t.startswith("scores.")]
        exclusive = tables.data.label_policy == "single" or choices["data"].part.cls.exclusive  # type: ignore[attr-defined]
        for table, choice in choices.items():
            key, cls = tuple(table.split(".")), choice.part.cls
            if table == "labeler":
                reads: tuple[str, ...] = ("generator", "classifier")
            elif table.startswith("scores."):
                if choice.name.lower() in _TAKEN:  # also on disks that do not tell them apart
                    self.fault(
                        key,
                        f"a score cannot be called {choice.name!r}, which is taken; rename the "
                        "table, and say with plugin = which score it is",
                    )
                reads = cls.reads  # type: ignore[attr-defined]
                if cls.exclusive_only and not exclusive:  # type: ignore[attr-defined]
                    self.fault(key, 'needs exclusive classes, but [data] label_policy is "multi"')
            else:
                continue
            for network in reads:
                if network not in networks:
                    self.fault(key, f"needs a [{network}], and the recipe has none")
            for network in cls.averages:  # type: ignore[attr-defined]
                if network in choices and not choices[network].words.average:
                    self.fault(
                        (network, "average"),
                        f"is 0, and [{table}] needs an average of the {network}: set it, to 0.99 "
                        "for example",
                    )
            for name in choice.words.trains or ():
                if name not in networks:
                    self.fault(
                        (*key, "trains"), f"no network is named {name!r}; {nearest(name, networks)}"
                    )
        for i, phase in enumerate(tables.schedule.phases):
            for name in phase.waits:
                if name not in networks:
                    self.fault(
                        ("schedule", "phases", str(i), "waits"),
                        f"no network is named {name!r}; {nearest(name, networks)}",
                    )
        if (labeler := choices.get("labeler")) and labeler.part.cls.needs_condition:  # type: ignore[attr-defined]
            generator = choices.get("generator")
            if generator and not generator.part.cls.conditional:  # type: ignore[attr-defined]
                self.fault(
                    ("labeler", "plugin"),
                    f"{labeler.part.name!r} needs a conditional generator, and "
                    f"{generator.part.name!r} is not",
                )

    def _implied_extractors(self, choices: dict[str, Choice]) -> dict[str, Choice]:
        """An extractor that a score or a metric reads and no table sets gets its plugin's defaults.

        The run's own classifier is no extractor to a metric: it measures in its features as such.
        """
        implied: dict[str, Choice] = {}
        for table, reader in choices.items():
            group = table.partition(".")[0]
            name = reader.options.get("extractor") if group in ("scores", "metrics") else None
            target = f"extractors.{name}"
            if not name or target in choices:
                continue
            own = group == "metrics" and name == "classifier"
            if own or (group == "scores" and reader.words.weight == 0):
                continue
            try:
                part = self.registry.get("extractor", name)
                options, faults = check_options(part.cls, {})
            except UserError as error:
                self.fault((*table.split("."), "extractor"), str(error))
                continue
            for option, message in faults.items():
                self.fault(("extractors", name, option), message)
            implied[target] = Choice(target, part, schema.Named(plugin=name), options)
        return implied


def _fields_at(model: Any, key: Key) -> list[str]:
    for part in key:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in options if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)


def _show(key: Key) -> str:
    """A key as it stands in a recipe: ``[scores.gram] weight``."""
    parts = [clipped(part if _BARE.fullmatch(part) else json.dumps(part)) for part in key]
    if len(key) == 1 or (len(key) == 2 and key[0] in schema.GROUPS):
        return f"[{'.'.join(parts)}]"  # a table itself
    if not key:
        return "recipe"
    return f"[{'.'.join(parts[:-1])}] {parts[-1]}"
