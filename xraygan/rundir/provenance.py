"""A run that is taken up again: what must be as it was, what may change, and the record of changes.

What decides the bits of the networks is compared: the recipe, except for the keys in
:data:`RESUMABLE`; the files that it names, by their content; and the images, labels
and splits, by their fingerprint.
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
from xraygan.utils.parsing import parse_toml, sha256

from . import checkpoint
from . import file_readers as parsing
from .directory import RunDirectory, flat

if TYPE_CHECKING:
    from xraygan.data.datamodule import ImageData
    from xraygan.graph.graph import TrainingGraph

Tree = dict[str, Any]
#: dotted key -> the value that it had, and the one that it has now
Changes = dict[str, tuple[Any, Any]]
LENGTH = ("run.steps", "run.epochs")
#: Keys that ``--resume`` may change, and why: they do not decide the bits of the networks. Every
#: other key must be what it was. ``NAME.*`` stands for all keys below a table.
RESUMABLE = {
    "run.name": "it names the run and decides nothing",
    "run.device": "another device may round differently; `environment.json` records the change",
    "run.log_every": "it decides what is logged",
    "run.save_every": "it decides what is saved",
    "run.keep": "it decides what is kept",
    "run.sample_every": "it decides what is drawn",
    "run.evaluate_every": "it decides what is measured",
    "run.keep_best": "it decides which checkpoint is kept; it can be left out, and not set anew",
    "run.on_nonfinite": "a step that is finite is the same with both",
    "data.root": "the images are compared by their content, wherever they are",
    "data.cache": "it is a copy of the images",
    "data.on_bad_image": "the images that are left are compared by their content",
    "evaluation.split": "it decides what is measured",
    "evaluation.generated": "it decides what is measured",
    "evaluation.bootstrap": "it decides what is measured",
    "evaluation.batch_size": "it decides what is measured",
    "metrics.*": "they decide what is measured",
    "extractors.*": "those that no score reads only measure",
    "trackers.*": "they only watch",
}
#: keys that cannot change what a run learns or measures
IMMATERIAL = (
    "data.cache", "run.name", "run.device", "run.log_every", "run.save_every", "run.keep",
    "run.sample_every", "trackers.*",
)  # fmt: skip
#: of environment.json: what differs between any two starts, or is compared elsewhere
_NO_FACTS = (
    "command", "started", "finished*", "seed", "resumed", "used", "dataset.*", "files.*"
)  # fmt: skip
#: what is recorded, and cannot change the bits
_HARMLESS = ("python", "platform")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumption:
    """A run that is about to go on.

    Attributes:
        step: steps of its newest checkpoint, 0 without one.
        environment: its ``environment.json``; empty without one.
        changed: the keys of the recipe that change.
    """

    place: RunDirectory
    recipe: Recipe
    step: int
    environment: Tree
    changed: Changes

    @classmethod
    def of(cls, place: RunDirectory, recipe: Recipe, *, longer: bool = False) -> Resumption:
        """A run that goes on with a recipe; nothing is written yet.

        Args:
            longer: whether the number of steps may change.

        Raises:
            UserError: it cannot go on with this recipe; the message names each key that decides the
                bits of the networks and differs, with both values.
        """
        environment = read_environment(place)
        place.read_metrics()  # before anything is written, and not when its lines are cut
        changed = changes(place.read_recipe(), recipe)
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
                f"{place.path} holds a run of another recipe, which cannot be resumed with this "
                f"one:{shown}\nGive the same recipe and options as before, or another "
                f"--out DIR ({hint}--from {place.path} starts a new run from its networks)"
            )
        return cls(place, recipe, 0, environment, changed).again()

    def again(self) -> Resumption:
        """The same with the step of the checkpoint that is the newest now.

        Raises:
            UserError: it has trained for as many steps as are asked for.
        """
        found = checkpoint.latest(self.place.checkpoints)
        resumption = replace(self, step=found.step if found else 0)
        if self.recipe.tables.run.steps is not None:
            resumption._check_steps(self.recipe.tables.run.steps)
        return resumption

    @property
    def lengthened(self) -> bool:
        """Whether the number of steps or epochs is another one."""
        return any(key in self.changed for key in LENGTH)

    def totals(self, images: int) -> tuple[int, int]:
        """Steps of the whole run, as it was and as it is now.

        Args:
            images: of the training split.
        """
        run = self.recipe.tables.run
        was = {key: self.changed[f"run.{key}"][0] for key in ("steps", "epochs")
               if f"run.{key}" in self.changed}  # fmt: skip
        epoch = images // run.batch_size
        return run.model_copy(update=was).total(epoch), run.total(epoch)

    def _check_steps(self, total: int) -> None:
        if self.lengthened and total <= self.step:
            raise UserError(
                f"{self.place.path}: it is to train for {total} steps in all, and has trained "
                f"{self.step} already. Give a larger number, or `xraygan evaluate "
                f"{self.place.path} --checkpoint STEP` to measure it at an earlier step"
            )

    def check_data(self, data: ImageData, differences: list[str]) -> None:
        """Hold that the images are those that the run began with.

        Args:
            differences: in what they are not, of
                :func:`xraygan.rundir.image_record.data_differences`.

        Raises:
            UserError: they are not; the message says what differs.
        """
        self._check_steps(self.totals(len(data.splits["train"]))[1])
        if differences:
            raise UserError(
                f"{self.place.path}: the images are not those that the run began with:"
                + "".join(f"\n  {line}" for line in differences)
                + "\nLet data.root name the folder of the same images, or give another --out DIR "
                f"(--from {self.place.path} starts a new run from its networks)"
            )

    def check_networks(self, graph: TrainingGraph) -> None:
        """Hold that the newest checkpoint can be gone on from, before anything is written.

        Raises:
            UserError: it does not fit the networks, or holds what is no number.
        """
        if (found := checkpoint.latest(self.place.checkpoints)) is not None:
            found.load(graph)

    def write(self, facts: Tree) -> None:
        """Write into the run what is now in force, and into ``resumed`` what changes.

        The evaluation of a run that is trained for longer is kept as
        ``evaluation-step-NNNNNNNN.json``, and so are the files beside it.

        Args:
            facts: the new content of ``environment.json``.
        """
        other = _facts(self.environment, facts)
        changed = self.changed | other
        entry = {
            "step": self.step,
            "time": facts["started"],
            "command": sys.argv,
            "fingerprint": facts["dataset"]["fingerprint"],
            "changed": {key: {"was": was, "now": now} for key, (was, now) in changed.items()},
        }
        kept = ("started", "command", "used")
        began = {k: self.environment[k] for k in kept if k in self.environment}
        trail = [*self.environment.get("resumed", []), entry]
        files = {self.place.environment: as_json({**facts, **began, "resumed": trail}).encode()}
        if self.changed:
            files[self.place.recipe] = tomli_w.dumps(self.recipe.resolved()).encode()
        if self.lengthened:
            keep_evaluation(self.place, self.step)
        write_together(files)
        self._say({k: v for k, v in other.items() if k not in _HARMLESS})

    def _say(self, other: Changes) -> None:
        if self.changed:
            _log.info("changed for the rest of the run: %s", "; ".join(_lines(self.changed)))
        if self.step and "fingerprint" not in self.environment.get("dataset", {}):
            _log.warning(
                "environment.json did not hold the fingerprint of the data, so whether the run "
                "goes on with the same images cannot be told"
            )
        if other:
            _log.warning(
                "resumed with other versions, threads or on another machine: the results are as "
                "valid, but their last bits may differ from those of a run that was never stopped "
                "([run] threads fixes the number of threads in a recipe): %s",
                "; ".join(_lines(other)),
            )


def read_environment(place: RunDirectory) -> Tree:
    """A run's ``environment.json``; empty where there is none.

    Raises:
        UserError: it is there and cannot be read.
    """
    remedy = (
        "it says which images the run began with: put back the file as it was, or move it away to "
        "go on without comparing them"
    )
    try:
        return parsing.needed(place.environment, parsing.environment, remedy)
    except FileNotFoundError:
        return {}


def trained_on(place: RunDirectory) -> str | None:
    """The fingerprint of the images that a run was trained on; None if it is not known."""
    return read_environment(place).get("dataset", {}).get("fingerprint")


# -- the recipe ------------------------------------------------------------------------------------


def changes(before: Tree, recipe: Recipe) -> Changes:
    """The keys in which a recipe differs from a run's, and both values; None where one has none.

    A key that the run's version did not know counts as its default.

    Args:
        before: the tables of the run's ``recipe.toml``.
    """
    was = dict(flat(_with_defaults(before, recipe)))
    now = dict(flat(_as_read(recipe)))
    keys = sorted(was.keys() | now.keys())
    return {key: (was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)}


def material_changes(place: RunDirectory, recipe: Recipe) -> Changes:
    """Those :func:`changes` from a run's recipe that can change what it learns or measures.

    Raises:
        UserError: the run's recipe cannot be read.
    """
    changed = changes(place.read_recipe(), recipe)
    return {key: pair for key, pair in changed.items() if not _among(key, IMMATERIAL)}


def _with_defaults(before: Tree, recipe: Recipe) -> Tree:
    # What only measures or watches may be of a plugin that is no longer there.
    free: Tree = {key: before[key] for key in ("metrics", "trackers") if key in before}
    tree = {key: copy.deepcopy(table) for key, table in before.items() if key not in free}
    named = {}
    for key, path in recipe.files().items():  # which may have moved since: it is compared later
        *tables, last = key.split(".")
        at: Any = tree
        for table in tables:
            at = at.get(table, {}) if isinstance(at, dict) else {}
        if isinstance(at, dict) and isinstance(at.get(last), str):
            named[key], at[last] = at[last], str(path)
    try:
        loaded = _as_read(load_tree(tree, recipe.source))
    except UserError:  # of another version, or a file that it names is gone: as it stands
        return before
    for key, name in named.items():
        *tables, last = key.split(".")
        at = loaded
        for table in tables:
            at = at[table]
        at[last] = name
    return {**loaded, **free}


def _as_read(recipe: Recipe) -> Tree:
    """A resolved recipe as its file is read again, tuples as lists."""
    return parse_toml(tomli_w.dumps(recipe.resolved()))


def _is_resumable(key: str, recipe: Recipe) -> bool:
    table, _, rest = key.partition(".")
    if table == "extractors":
        scores = (c for c in recipe.chosen("scores").values() if c.words.weight != 0)
        return rest.partition(".")[0] not in {c.options.get("extractor") for c in scores}
    if key == "run.keep_best":
        return recipe.tables.run.keep_best is None
    return _among(key, RESUMABLE)


def _among(key: str, keys: Iterable[str]) -> bool:
    return any(key == k or (k.endswith("*") and key.startswith(k[:-1])) for k in keys)


def _lines(changed: Changes) -> list[str]:
    return [
        f"{key}: {'unset' if was is None else was} there, {'unset' if now is None else now} now"
        for key, (was, now) in changed.items()
    ]


# -- the data and the machine ----------------------------------------------------------------------


def classes_of(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of an ``environment.json``, in the order of the label vectors; () if unknown."""
    return tuple(next(iter(environment.get("dataset", {}).get("classes", {}).values()), ()))


def _facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The facts that two ``environment.json`` have both and that differ, recipe and data aside."""
    then, here = dict(flat(before)), dict(flat(now))
    keys = [k for k in then if k in here and not _among(k, _NO_FACTS)]
    return {k: (then[k], here[k]) for k in keys if then[k] != here[k]}


def keep_evaluation(place: RunDirectory, step: int) -> None:
    """Keep what an evaluation wrote, under names that tell its step.

    Args:
        step: of the evaluation, where ``evaluation.json`` does not tell.
    """
    with suppress(FileNotFoundError):
        step = place.read_evaluation().get("step", step)
    others = [place.of_split(split) for split in SPLIT_NAMES]
    of_splits = [f for o in others for f in (o.predictions, o.bootstrap, o.evaluation)]
    own = (place.predictions, place.bootstrap, place.report, place.evaluation)
    for path in (*of_splits, *own):
        if path.exists():
            path.replace(path.with_name(f"{path.stem}-step-{step:08d}{path.suffix}"))
