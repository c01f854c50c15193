"""The registry: the parts that plugins registered, their distributions, and their errors.

Plugins are found through the entry-point group ``xraygan``, built-in and third-party ones alike. A
plugin that fails is recorded with the reason, and the other plugins still work.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from xraygan.errors import UserError, did_you_mean, shown
from xraygan.utils.naming import label_fault

from . import hookspecs
from .importing import ImportFault, import_errors

GROUP = "xraygan"


class Kind(NamedTuple):
    """A kind of part.

    Attributes:
        hook: the hook that registers parts of the kind.
        interface: ``"package.Class"``: parts are its subclasses, and recipes name them.
        instance: parts are instances of the interface instead, and recipes cannot name them.
    """

    hook: str
    interface: str
    instance: bool = False


#: every kind of part by name, in the order of listings
KINDS = {
    "dataset": Kind("xraygan_register_datasets", "xraygan.Dataset"),
    "generator": Kind("xraygan_register_generators", "xraygan.Generator"),
    "discriminator": Kind("xraygan_register_discriminators", "xraygan.Discriminator"),
    "classifier": Kind("xraygan_register_classifiers", "xraygan.Classifier"),
    "objective": Kind("xraygan_register_objectives", "xraygan.Objective"),
    "augmenter": Kind("xraygan_register_augmenters", "xraygan.Augmenter"),
    "labeler": Kind("xraygan_register_labelers", "xraygan.Labeler"),
    "score": Kind("xraygan_register_scores", "xraygan.Score"),
    "extractor": Kind("xraygan_register_extractors", "xraygan.Extractor"),
    "metric": Kind("xraygan_register_metrics", "xraygan.Metric"),
    "tracker": Kind("xraygan_register_trackers", "xraygan.Tracker"),
    "command": Kind("xraygan_register_commands", "click.Command", instance=True),
}


class BrokenPart(Exception):
    """Why a part cannot be used."""


@dataclass(frozen=True)
class Part:
    """One registered name.

    Attributes:
        kind: a key of :data:`KINDS`; ``"plugin"`` for an entry point that registered nothing
            because it is broken.
        target: the class or the instance, or ``"module:attribute"``, which is imported when it is
            first needed.
        error: why the part cannot be used; empty if it can.
    """

    kind: str
    name: str
    distribution: str
    version: str
    target: Any = None
    error: str = ""

    @property
    def status(self) -> str:
        return "broken" if self.error else "ok"

    @cached_property
    def summary(self) -> str:
        """The first line of the docstring, read without importing a lazy target."""
        if self.error:
            return ""
        if isinstance(self.target, str):
            return first_line(_source_docstring(self.target))
        return first_line(docstring(self.target))

    @cached_property
    def cls(self) -> Any:
        """The class or the instance, imported now if it was registered as a string.

        Raises:
            UserError: it cannot be imported or is not of its kind.
        """
        try:
            return self.resolve()
        except BrokenPart as error:
            raise UserError(
                f"the {self.kind} {self.name!r} of {self.origin} is broken: {error}"
            ) from error

    def resolve(self) -> Any:
        """The class or the instance, imported now if it was registered as a string.

        Raises:
            BrokenPart: it cannot be imported or is not of its kind; the message is only the reason,
                for callers that name the part themselves.
        """
        if self.error:
            raise BrokenPart(self.error)
        target = self.target
        if isinstance(target, str):
            try:
                title = f"the {self.kind} {self.name!r} of {self.origin}"
                with import_errors(title, builtin=self.is_own):
                    target = _import(target)
            except ImportFault as error:
                raise BrokenPart(f"cannot import {self.target}: {error}") from error
        _, name, instance = KINDS[self.kind]
        interface = _import(name.replace(".", ":"))
        if instance:
            if not isinstance(target, interface):
                raise BrokenPart(f"not an instance of {name}: {shown(target)}")
            return target
        if not (isinstance(target, type) and issubclass(target, interface)):
            raise BrokenPart(f"not a subclass of {name}: {shown(target)}")
        if missing := sorted(getattr(target, "__abstractmethods__", ())):
            raise BrokenPart(f"{target.__name__} does not implement {', '.join(missing)}")
        return target

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def is_own(self) -> bool:
        """Whether it comes with the toolkit."""
        return self.distribution == "xraygan"

    def as_dict(self) -> dict[str, str]:
        keys = ("kind", "name", "summary", "distribution", "version", "status", "error")
        return {key: getattr(self, key) for key in keys}


class Registry:
    """The parts that are installed, by kind and name.

    Args:
        points: entry points to read; by default those of the group ``xraygan``.
        lazy: do not import parts that are registered as strings, also of third-party plugins.
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None, *, lazy: bool = False) -> None:
        self._lazy = lazy
        self._parts: dict[tuple[str, str], Part] = {}
        self._broken: list[Part] = []
        points = entry_points(group=GROUP) if points is None else points
        # Built-ins first, so that they keep their names; then in a fixed order.
        for point in sorted(points, key=lambda p: (_origin(p)[0] != "xraygan", _origin(p), p.name)):
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        distribution, version = _origin(point)
        blank = Part("plugin", point.name, distribution, version)
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        title = f"the plugin {point.name!r} of {blank.origin}"
        try:
            with import_errors(title, builtin=blank.is_own):
                plugin = point.load()
                manager.register(plugin, name=point.name)
                _check_hooks(manager, plugin)
        except ImportFault as error:
            self._broken.append(replace(blank, error=str(error)))
            return
        for kind, (hook, *_) in KINDS.items():
            registered: list[str] = []

            def register(
                name: str, target: Any, *, kind: str = kind, registered: list[str] = registered
            ) -> None:
                registered.append(name)
                self._add(replace(blank, kind=kind, name=name, target=target))

            fault = ""
            try:
                with import_errors(title, builtin=blank.is_own):
                    result = getattr(manager.hook, hook)(register=register)
                if result and not registered:
                    fault = f"{hook} returned {shown(result[0])}; it must call register(name, part)"
            except ImportFault as error:
                fault = f"{hook} raised {error}"
            if fault:
                self._broken.append(replace(blank, kind=kind, error=fault))

    def _add(self, part: Part) -> None:
        if reason := label_fault(part.name):
            fault = f"a part cannot be called {shown(part.name)}: the name {reason}"
            self._broken.append(replace(part, name=shown(part.name, 40), error=fault))
            return
        if holder := self.holder(part.kind, part.name):
            fault = f"the name {part.name!r} is already taken by {holder}"
            self._broken.append(replace(part, error=fault))
            return
        # Tests check the kind of lazy built-in parts, so that listing need not import them.
        lazy = self._lazy or part.is_own
        if not (isinstance(part.target, str) and lazy):
            try:
                part = replace(part, target=part.resolve())
            except BrokenPart as error:
                self._broken.append(replace(part, error=str(error)))
                return
        self._parts[part.kind, part.name] = part

    def holder(self, kind: str, name: str) -> str:
        """The distribution that holds a name, so that no other can take it; empty if it is free."""
        if part := self._parts.get((kind, name)):
            return part.origin
        if kind == "command" and name in importlib.import_module("xraygan.cli").cli.commands:
            return "xraygan itself"
        return ""

    def parts(self, kind: str | None = None) -> Iterator[Part]:
        """Every part, also broken ones, by kind in the order of :data:`KINDS`, then by name."""
        order = {k: i for i, k in enumerate(KINDS)}
        parts = [*self._parts.values(), *self._broken]
        for part in sorted(parts, key=lambda p: (order.get(p.kind, 99), p.name, p.error)):
            if kind is None or part.kind == kind:
                yield part

    def names(self, kind: str) -> list[str]:
        """The usable names of one kind, sorted."""
        return sorted(name for k, name in self._parts if k == kind)

    def get(self, kind: str, name: str) -> Part:
        """The part of a kind with a name.

        Raises:
            UserError: it is broken or does not exist; the message gives the most similar names, and
                the broken plugins that may provide it.
        """
        if part := self._parts.get((kind, name)):
            return part
        hint = did_you_mean(name, self.names(kind))
        suspects = [part for part in self._broken if part.kind in (kind, "plugin")]
        for part in suspects:
            if part.name == name:
                raise UserError(
                    f"the {part.kind} {name!r} of {part.origin} is broken: {part.error}; {hint}"
                )
        # A plugin without a target broke before it registered its names.
        broken = ", ".join(f"{p.name} of {p.origin}" for p in suspects if p.target is None)
        note = f" (broken, see `xraygan list-plugins`: {broken})" if broken else ""
        raise UserError(f"no {kind} is named {name!r}: {hint}{note}")


@cache
def installed() -> Registry:
    """The registry of this environment, read once per process."""
    return Registry()


@cache
def commands() -> Registry:
    """The registry of plugins that may provide commands, read at every call of the command line.

    Other plugins, which may import much, are not imported, and lazy parts stay lazy.
    """
    hook = KINDS["command"].hook
    points = [point for point in entry_points(group=GROUP) if _may_implement(point, hook)]
    return Registry(points, lazy=True)


def first_line(doc: str | None) -> str:
    """The first line of a docstring, without its final full stop."""
    return doc.strip().splitlines()[0].strip().rstrip(".") if doc and doc.strip() else ""


def docstring(part: Any) -> str:
    """The docstring of a class, unindented and not inherited from its interface; or the help of a
    command."""
    text = part.__doc__ if isinstance(part, type) else getattr(part, "help", None)
    return inspect.cleandoc(text) if isinstance(text, str) else ""


def _origin(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Raise an error if a plugin implements no hook, or an unknown one."""
    known = [kind.hook for kind in KINDS.values()]
    callers = manager.get_hookcallers(plugin) or []
    for name in sorted({caller.name for caller in callers} - set(known)):
        raise pluggy.PluginValidationError(
            plugin, f"no hook is named {name!r}: {did_you_mean(name, known)}"
        )
    if not callers:
        raise pluggy.PluginValidationError(plugin, "it implements no hook; is @hookimpl missing?")


def _import(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _may_implement(point: EntryPoint, hook: str) -> bool:
    """Whether a plugin may implement a hook, by the source of its module.

    It does not if the source has other hooks but not this one. A source without hooks may import
    them from elsewhere.
    """
    origin = " ".join(_origin(point)).strip()
    try:
        title, builtin = f"the plugin {point.name!r} of {origin}", _origin(point)[0] == "xraygan"
        with import_errors(title, builtin=builtin):
            text = _source(point.module)
    except ImportFault:
        return True  # its import reports the error
    return text is None or hook in text or "import *" in text or "xraygan_register_" not in text


def _source_docstring(reference: str) -> str | None:
    """The docstring of ``"module:attribute"``, read from the module's source."""
    module, _, attribute = reference.partition(":")
    try:
        tree = ast.parse(_source(module) or "")
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return ast.get_docstring(node)
    return None


def _source(module: str) -> str | None:
    """The source of a module, which is not run; None if it cannot be read."""
    try:
        spec = importlib.util.find_spec(module)  # this runs its parent packages
        return Path(spec.origin).read_text(encoding="utf-8")  # type: ignore[union-attr, arg-type]
    except (Exception, SystemExit):
        return None
