"""Resuming a run: what must stay the same, what may change, and the record of changes.

All that decides the bits of the networks is compared: the recipe, except for the keys in
:data:`RESUMABLE`; the files that it names, by their content; and the images, labels and splits, by
their fingerprint.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tomli_w

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load_tree
from xraygan.utils.atomic_files import as_json, write_together
from xraygan.utils.nested import flatten_tables
from xraygan.utils.parsing import parse_toml, sha256

from . import checkpoint, file_readers
from .directory import RunDirectory
from .external_files import external_names

if TYPE_CHECKING:
    from xraygan.data.datamodule import ImageData
    from xraygan.graph.graph import TrainingGraph

Tree = dict[str, Any]
#: dotted key -> its value in the run, and its new value
Changes = dict[str, tuple[Any, Any]]
LENGTH = ("run.steps", "run.epochs")
#: Keys that ``--resume`` may change, and why: they do not decide the bits of the networks. No
#: other key may change. ``NAME.*`` stands for all keys below a table.
RESUMABLE = {
    "run.name": "it only names the run",
    "run.device": "another device may round differently; `environment.json` records the change",
    "run.log_every": "it decides what is logged",
    "run.save_every": "it decides what is saved",
    "run.keep": "it decides what is kept",
    "run.sample_every": "it decides which samples are drawn",
    "run.evaluate_every": "it decides what is measured",
    "run.keep_best": "it decides which checkpoint is kept; it can be left out, and not set anew",
    "run.on_nonfinite": "finite steps are the same with both values",
    "data.root": "the images are compared by their content, wherever they are",
    "data.generated.table": "the images are compared by their content, wherever they are",
    "data.generated.root": "the images are compared by their content, wherever they are",
    "data.cache": "it is a copy of the images",
    "data.on_bad_image": "the remaining images are compared by their content",
    "evaluation.split": "it decides what is measured",
    "evaluation.generated": "it decides what is measured",
    "evaluation.reference": "it decides what is measured",
    "evaluation.bootstrap": "it decides what is measured",
    "evaluation.batch_size": "it decides what is measured",
    "metrics.*": "they decide what is measured",
    "extractors.*": "extractors that no score reads only measure",
    "trackers.*": "they only observe",
}
#: keys that cannot change what a run learns or measures
IMMATERIAL = (
    "data.cache", "run.name", "run.device", "run.log_every", "run.save_every", "run.keep",
    "run.sample_every", "trackers.*",
)  # fmt: skip
#: keys of environment.json that differ between any two starts, or are compared elsewhere
_IGNORED = (
    "command", "started", "finished*", "seed", "resumed", "used", "dataset.*", "files.*"
)  # fmt: skip
#: keys that are recorded and cannot change the bits
_HARMLESS = ("python", "platform")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumption:
    """A run that is about to be resumed.

    Attributes:
        step: the step of its newest checkpoint; 0 without one.
        environment: the content of its ``environment.json``; empty without one.
        changed: the keys of the recipe that change.
    """

    run_dir: RunDirectory
    recipe: Recipe
    step: int
    environment: Tree
    changed: Changes

    @classmethod
    def of(cls, run_dir: RunDirectory, recipe: Recipe, *, longer: bool = False) -> Resumption:
        """Resume a run with a recipe; nothing is written yet.

        Args:
            longer: whether the number of steps may change.

        Raises:
            UserError: the run cannot be resumed with this recipe; the message names each changed
                key that decides the bits of the networks, with both values.
        """
        environment = read_environment(run_dir)
        run_dir.read_metrics()  # a damaged log is an error before anything is written
        # A key may change if it is in RESUMABLE, if it is the number of steps and the caller allows
        # that, or if it is the path of a file whose content is the same. All others are refused.
        changed = changes(run_dir.read_recipe(), recipe)
        allowed = {
            key
            for key, (was, _) in changed.items()
            if _is_resumable(key, recipe)
            or (longer and key in LENGTH and isinstance(was, int | None))
        }
        hashes = environment.get("files", {})
        for key, path in recipe.files().items():
            if key in changed and path.is_file() and hashes.get(key) == sha256(path):
                allowed.add(key)  # the same file somewhere else
        if refused := {key: pair for key, pair in changed.items() if key not in allowed}:
            hint = "--steps N trains this run for N steps in all; " * (
                not refused.keys() - {*LENGTH}
            )
            shown = "".join(f"\n  {line}" for line in _lines(refused))
            raise UserError(
                f"{run_dir.path} holds a run of another recipe, which cannot be resumed with this "
                f"one:{shown}\nGive the same recipe and options as before, or another "
                f"--out DIR ({hint}--from {run_dir.path} starts a new run from its networks)"
            )
        return cls(run_dir, recipe, 0, environment, changed).at_latest()

    def at_latest(self) -> Resumption:
        """The resumption at the step of the checkpoint that is the newest now.

        Raises:
            UserError: the run has already trained for the requested number of steps.
        """
        newest = checkpoint.latest(self.run_dir.checkpoints)
        resumption = replace(self, step=newest.step if newest else 0)
        if self.recipe.tables.run.steps is not None:
            resumption._check_steps(self.recipe.tables.run.steps)
        return resumption

    @property
    def lengthened(self) -> bool:
        """Whether the number of steps or epochs changes."""
        return any(key in self.changed for key in LENGTH)

    def totals(self, images: int) -> tuple[int, int]:
        """Steps of the whole run, before and after the change.

        Args:
            images: number of images of the training split.
        """
        run = self.recipe.tables.run
        before = {key: self.changed[f"run.{key}"][0] for key in ("steps", "epochs")
               if f"run.{key}" in self.changed}  # fmt: skip
        epoch = images // run.batch_size
        return run.model_copy(update=before).total(epoch), run.total(epoch)

    def _check_steps(self, total: int) -> None:
        if self.lengthened and total <= self.step:
            raise UserError(
                f"{self.run_dir.path}: the run has trained for {self.step} steps already, and "
                f"{total} steps in all are requested. Give a larger number, or measure an earlier "
                f"step with `xraygan evaluate {self.run_dir.path} --checkpoint STEP`"
            )

    def check_data(self, data: ImageData, differences: list[str]) -> None:
        """Check that the images are those that the run started with.

        Args:
            differences: the result of :func:`xraygan.rundir.image_record.data_differences`.

        Raises:
            UserError: they are not; the message lists the differences.
        """
        self._check_steps(self.totals(len(data.splits["train"]))[1])
        if differences:
            raise UserError(
                f"{self.run_dir.path}: the images are not those that the run started with:"
                + "".join(f"\n  {line}" for line in differences)
                + "\nSet data.root to the folder of the same images, or give another --out DIR "
                f"(--from {self.run_dir.path} starts a new run from its networks)"
            )

    def check_networks(self, graph: TrainingGraph) -> None:
        """Check that the newest checkpoint can be loaded, before anything is written.

        Raises:
            UserError: it does not fit the networks, or its values are not finite.
        """
        if (newest := checkpoint.latest(self.run_dir.checkpoints)) is not None:
            newest.load(graph)

    def write(self, facts: Tree) -> None:
        """Write the new recipe and environment into the run, and the changes into ``resumed``.

        If the run is lengthened, its evaluation is kept as ``evaluation-step-NNNNNNNN.json``, and
        so are the files beside it.

        Args:
            facts: the new content of ``environment.json``.
        """
        other = _changed_facts(self.environment, facts)
        changed = self.changed | other
        entry = {
            "step": self.step,
            "time": facts["started"],
            "command": sys.argv,
            "fingerprint": facts["dataset"]["fingerprint"],
            "changed": {k: {"was": old, "now": new} for k, (old, new) in changed.items()},
        }
        original_keys = ("started", "command", "used")
        original = {k: self.environment[k] for k in original_keys if k in self.environment}
        resumed = [*self.environment.get("resumed", []), entry]
        content = {**facts, **original, "resumed": resumed}
        files = {self.run_dir.environment: as_json(content).encode()}
        if self.changed:
            files[self.run_dir.recipe] = tomli_w.dumps(self.recipe.resolved()).encode()
        if self.lengthened:
            keep_evaluation(self.run_dir, self.step)
        write_together(files)
        self._log_changes({k: v for k, v in other.items() if k not in _HARMLESS})

    def _log_changes(self, other: Changes) -> None:
        if self.changed:
            _log.info("changed for the rest of the run: %s", "; ".join(_lines(self.changed)))
        if self.step and "fingerprint" not in self.environment.get("dataset", {}):
            _log.warning(
                "environment.json holds no fingerprint of the data, so it is not known whether the "
                "run continues with the same images"
            )
        if other:
            _log.warning(
                "resumed with other versions, other threads or on another machine: the results are "
                "as valid, but their last bits may differ from those of an uninterrupted run "
                "([run] threads sets the number of threads in a recipe): %s",
                "; ".join(_lines(other)),
            )


def read_environment(run_dir: RunDirectory) -> Tree:
    """The content of ``environment.json``; empty without the file.

    Raises:
        UserError: the file exists and cannot be read.
    """
    remedy = (
        "it records the images that the run started with: restore the file, or move it away to "
        "continue without comparing them"
    )
    try:
        return file_readers.needed(run_dir.environment, file_readers.environment, remedy)
    except FileNotFoundError:
        return {}


def trained_on(run_dir: RunDirectory) -> str | None:
    """The fingerprint of the images that a run was trained on; None if unknown."""
    return read_environment(run_dir).get("dataset", {}).get("fingerprint")


# -- the recipe ------------------------------------------------------------------------------------


def changes(before: Tree, recipe: Recipe) -> Changes:
    """The keys in which a recipe differs from a run's, with both values; None for an absent value.

    A key that the run's version did not have counts as its default.

    Args:
        before: the tables of the run's ``recipe.toml``.
    """
    old = flatten_tables(_with_defaults(before, recipe))
    new = flatten_tables(_as_read(recipe))
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def material_changes(run_dir: RunDirectory, recipe: Recipe) -> Changes:
    """The :func:`changes` from a run's recipe that can change what it learns or measures.

    Raises:
        UserError: the run's recipe cannot be read.
    """
    return material(changes(run_dir.read_recipe(), recipe))


def material(changed: Changes) -> Changes:
    """Those of some changes that can change what a run learns or measures."""
    return {key: pair for key, pair in changed.items() if not _among(key, IMMATERIAL)}


def _with_defaults(before: Tree, recipe: Recipe) -> Tree:
    # The run's recipe is loaded with this version's defaults, so that keys that it did not have are
    # not taken for changes. Metrics and trackers are left out: their plugins may be uninstalled.
    free: Tree = {key: before[key] for key in ("metrics", "trackers") if key in before}
    tree = {key: copy.deepcopy(table) for key, table in before.items() if key not in free}
    named = {}
    for key, path in recipe.files().items():  # they may have moved, and are compared later
        *tables, last = key.split(".")
        at: Any = tree
        for table in tables:
            at = at.get(table, {}) if isinstance(at, dict) else {}
        if isinstance(at, dict) and isinstance(at.get(last), str):
            named[key], at[last] = at[last], str(path)
    try:
        loaded = _as_read(load_tree(tree, recipe.source))
    except UserError:  # a recipe of another version, or one whose files are gone: as it is
        return before
    for key, name in named.items():
        *tables, last = key.split(".")
        at = loaded
        for table in tables:
            at = at[table]
        at[last] = name
    return {**loaded, **free}


def _as_read(recipe: Recipe) -> Tree:
    """A resolved recipe as its file would be read again, with lists in place of tuples."""
    return parse_toml(tomli_w.dumps(recipe.resolved()))


def _is_resumable(key: str, recipe: Recipe) -> bool:
    table, _, subkey = key.partition(".")
    if table == "extractors":
        scores = (c for c in recipe.chosen("scores").values() if c.config.weight != 0)
        return subkey.partition(".")[0] not in {c.options.get("extractor") for c in scores}
    if key == "run.keep_best":
        return recipe.tables.run.keep_best is None
    return _among(key, RESUMABLE)


def _among(key: str, keys: Iterable[str]) -> bool:
    return any(key == k or (k.endswith("*") and key.startswith(k[:-1])) for k in keys)


def _lines(changed: Changes) -> list[str]:
    return [
        f"{key}: {'unset' if old is None else old} there, {'unset' if new is None else new} now"
        for key, (old, new) in changed.items()
    ]


# -- the data and the machine ----------------------------------------------------------------------


def classes_of(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of an ``environment.json``, in the order of the label vectors; () if unknown."""
    return tuple(next(iter(environment.get("dataset", {}).get("classes", {}).values()), ()))


def _changed_facts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """The entries of two ``environment.json`` that differ, without recipe, data and new entries."""
    old, new = flatten_tables(before), flatten_tables(after)
    keys = [k for k in old if k in new and not _among(k, _IGNORED)]
    return {k: (old[k], new[k]) for k in keys if old[k] != new[k]}


def keep_evaluation(run_dir: RunDirectory, step: int) -> None:
    """Rename the files of an evaluation to names that hold its step.

    Args:
        step: the step of the evaluation, if ``evaluation.json`` does not say it.
    """
    with suppress(FileNotFoundError):
        step = run_dir.read_evaluation().get("step", step)
    names = (*SPLIT_NAMES, *external_names(run_dir.path))
    others = [run_dir.of_split(name) for name in names]
    of_splits = [f for o in others for f in (o.predictions, o.bootstrap, o.evaluation)]
    of_run = (run_dir.predictions, run_dir.bootstrap, run_dir.report, run_dir.evaluation)
    for path in (*of_splits, *of_run):
        if path.exists():
            path.replace(path.with_name(f"{path.stem}-step-{step:08d}{path.suffix}"))
