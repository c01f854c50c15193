"""Checks of a run directory by its own files: whether it is complete, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.recipe.loading import load
from xraygan.rundir import completion, digests, file_readers
from xraygan.rundir.directory import PACKAGES, RunDirectory, git_revision
from xraygan.rundir.file_schemas import cautions
from xraygan.rundir.image_record import ImageRecord
from xraygan.rundir.manifest import read_manifest
from xraygan.utils.parsing import sha256

from .log import check_log
from .report import Report

Tree = dict[str, Any]
EARLIER = "the run is of an earlier version, which recorded no digest of it"


@dataclass(frozen=True)
class RunContent:
    """The files of a run that tell what it is; a file that cannot be read is empty."""

    run_dir: RunDirectory
    recipe: Tree
    environment: Tree
    evaluation: Tree

    @property
    def step(self) -> int | None:
        """The measured step; None if it is not known."""
        return self.evaluation.get("step")

    @property
    def threads(self) -> int | None:
        """The number of processor threads; None if it is not known."""
        recorded = self.environment.get("threads")
        return recorded if isinstance(recorded, int) and recorded > 0 else None


def check_files(report: Report, run_dir: RunDirectory) -> RunContent:
    """Check what the files of a run say of each other; no data are needed."""
    lacks = completion.lacking(run_dir.path)
    if lacks:
        report.differs(run_dir.path, "a complete run", "all of its results", "; ".join(lacks))
    else:
        report.holds(run_dir.path, "the run is complete")
    run = _read(report, run_dir)
    _check_digests(report, run)
    _check_checkpoints(report, run)
    _check_identity(report, run)
    _check_measured_data(report, run)
    _check_named_files(report, run)
    check_log(report, run_dir, run.recipe, run.environment, run.evaluation)
    _note_versions(report, run)
    return run


def _read(report: Report, run_dir: RunDirectory) -> RunContent:
    contents: list[Tree] = []
    for path, parse in (
        (run_dir.recipe, file_readers.recipe),
        (run_dir.environment, file_readers.environment),
        (run_dir.evaluation, file_readers.evaluation),
    ):
        content: Tree = {}
        try:
            content = file_readers.needed(path, parse, "no run writes such a file")
        except FileNotFoundError:
            report.differs(path, "a file of every finished run", "a file", "none")
        except UserError as error:
            report.differs(path, str(error).removeprefix(f"{path}: "))
        contents.append(content)
    return RunContent(run_dir, *contents)


# -- digests ---------------------------------------------------------------------------------------


def _check_digests(report: Report, run: RunContent) -> None:
    """Compare files with the digests that ``environment.json`` and ``evaluation.json`` record."""
    place, finished = run.run_dir, run.environment.get("finished") or {}
    of_run = [place.recipe, place.metrics]
    if isinstance(step := finished.get("step"), int):
        of_run.append(digests.manifest_path(place, step))
    measured = [place.predictions, place.bootstrap]
    if run.step is not None:
        measured.append(digests.manifest_path(place, run.step))
    for paths, recorded, source in (
        (of_run, finished.get(digests.KEY), "finished in environment.json"),
        (measured, run.evaluation.get(digests.KEY), "evaluation.json"),
    ):
        recorded = recorded if isinstance(recorded, dict) else {}
        for path in paths:
            _check_digest(report, run, path, recorded, source)


def _check_digest(
    report: Report, run: RunContent, path: Path, recorded: Mapping[str, Any], source: str
) -> None:
    name = path.relative_to(run.run_dir.path).as_posix()
    text = f"the sha256 that {source} records"
    if name not in recorded:
        if path.is_file():
            report.unchecked(path, f"{text}: {EARLIER}")
    elif not path.is_file():
        report.differs(path, text, recorded[name], "no such file")
    else:
        report.check(path, text, recorded[name], sha256(path))


def _check_checkpoints(report: Report, run: RunContent) -> None:
    folder = run.run_dir.checkpoints
    found = sorted(folder.glob("step-*"))
    if not found:
        report.differs(folder, "the checkpoints of the run", "a checkpoint", "none")
    faults: dict[Path, Exception] = {}
    for path in found:
        try:
            read_manifest(path)
        except (OSError, ValueError) as error:
            faults[path] = error
    for path, fault in faults.items():
        report.differs(path, f"damaged: {fault}")
    if intact := len(found) - len(faults):
        report.holds(folder, f"the files of {intact} checkpoints match their manifests")


# -- what the files say of each other --------------------------------------------------------------


def _check_identity(report: Report, run: RunContent) -> None:
    """Compare the recipe with what the run recorded of it when it started."""
    place, table = run.run_dir, run.recipe.get("run", {})
    if run.environment and run.recipe:
        text = "run.seed, as environment.json records it"
        report.check(place.recipe, text, run.environment.get("seed"), table.get("seed"))
        plugin = run.environment.get("dataset", {}).get("plugin")
        text = "data.plugin, as environment.json records it"
        report.check(place.recipe, text, plugin, run.recipe.get("data", {}).get("plugin"))
    if run.evaluation:
        total = completion.total_steps(run.recipe, run.environment)
        if total is not None and run.step != total:
            report.note(place.evaluation, f"measured at step {run.step} of {total}")
        for sentence in cautions(run.evaluation.get("protocol", {})):
            report.note(place.evaluation, sentence)


def _check_measured_data(report: Report, run: RunContent) -> None:
    """Compare the records of the data with each other: environment, images and evaluation."""
    place, protocol = run.run_dir, run.evaluation.get("protocol", {})
    trained = run.environment.get("dataset", {}).get("fingerprint")
    measured = protocol.get("fingerprint")
    if trained and measured and not protocol.get("data_differs"):
        text = "the fingerprint of the data, as environment.json records it"
        report.check(place.evaluation, text, trained, measured)
    try:
        if not place.images.is_file():
            report.unchecked(place.images, "the run has no record of single images")
        elif ImageRecord.read(place) is None:
            text = "records the images of environment.json"
            report.differs(place.images, text, trained, "other images")
        else:
            report.holds(place.images, "records the images of environment.json")
        if place.predictions.is_file() and "images" in protocol:
            table = file_readers.needed(place.predictions, file_readers.predictions, "")
            text = "an entry for each image of the evaluation"
            report.check(place.predictions, text, protocol["images"], len(table[0][1]))
    except UserError as error:
        report.differs(place.path, str(error))


def _check_named_files(report: Report, run: RunContent) -> None:
    """Compare the files that the recipe names, such as weights, with their recorded digests."""
    if not (recorded := run.environment.get("files")):
        return
    try:
        named = load(run.run_dir.recipe, files=False).files()
    except UserError as error:
        report.unchecked(run.run_dir.recipe, f"the files that it names: {error}")
        return
    for key, digest in recorded.items():
        where = f"{report.name(run.run_dir.recipe)}: {key}"
        if (path := named.get(key)) is None or not path.is_file():
            report.unchecked(where, f"the file that it names is not at hand: {path}")
        else:
            report.check(where, f"the sha256 of {path.name}", digest, sha256(path))


def _note_versions(report: Report, run: RunContent) -> None:
    """Note versions other than those of this installation, and a run that was resumed."""
    where, environment = run.run_dir.environment, run.environment
    if not environment:
        return
    recorded = environment.get("git")
    if recorded is None:
        report.unchecked(
            where, "the revision of the code: the run was made by an installed package"
        )
    elif str(recorded).endswith("-dirty"):
        report.note(where, f"the code had changes that are not in its revision {recorded}")
    here = {name: _installed(name) for name in ("xraygan", *PACKAGES)} | {"git": git_revision()}
    others = [
        f"{name} {environment[name]}, here {value}"
        for name, value in here.items()
        if environment.get(name) not in (None, value)
    ]
    if others:
        report.note(where, f"made with other versions: {'; '.join(others)}")
    for entry in environment.get("resumed", []):
        changed = ", ".join(entry.get("changed", {}))
        report.note(where, f"resumed at step {entry.get('step')}; changed: {changed or 'nothing'}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
