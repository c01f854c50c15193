"""Checks of a sweep's folder: its recipes, its runs, and what its runs have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.directory import RunDirectory
from xraygan.rundir.manifest import parse_manifest
from xraygan.sweep.existing_runs import run_changes
from xraygan.sweep.provenance import RECORDED
from xraygan.sweep.record import FILE, Recorded, read_record
from xraygan.utils.parsing import sha256

from .files import RunContent
from .report import Report

#: entries of ``environment.json`` that must be the same in all runs, and those that need not be
SAME = ("revision", "xraygan", "torch")
NOTED = ("device", "threads")


def read_sweep(report: Report, folder: Path) -> Recorded | None:
    """The record of a sweep; None if its folder has none that can be read."""
    try:
        return read_record(folder)
    except FileNotFoundError:
        report.unchecked(folder / FILE, "the folder is of an earlier version, which did not write "
                         "it, so the rows and seeds are those of recipes/")  # fmt: skip
    except UserError as error:
        report.differs(folder / FILE, str(error).removeprefix(f"{folder / FILE}: "))
    return None


def check_runs_exist(report: Report, folder: Path, recorded: Recorded | None) -> list[str]:
    """Check that the runs, the recipes and the record name the same runs.

    Returns:
        The names of the runs that the sweep should have and has.
    """
    runs = {path.name for path in (folder / "runs").glob("*") if path.is_dir()}
    recipes = {path.stem for path in (folder / "recipes").glob("*.toml") if path.is_file()}
    names = {run.run_dir.path.name for run in recorded.runs} if recorded else recipes | runs
    failures = recorded.content.failures if recorded else {}
    for name in sorted(names):
        if name not in runs:
            reason = failures.get(name)
            found = f"none; the table says: {reason}" if reason else "none"
            report.differs(folder / "runs" / name, "a run of the sweep", "a run", found)
        path = folder / "recipes" / f"{name}.toml"
        if name not in recipes:
            report.differs(path, "the recipe of a run of the sweep", "a file", "none")
        elif recorded and name in recorded.content.recipes:
            text = "the sha256 that sweep.json records"
            report.check(path, text, recorded.content.recipes[name], sha256(path))
    for name in sorted((runs | recipes) - names):
        text = "not a run of the table: an earlier sweep in this folder had it"
        report.note(folder / "runs" / name, text)
    return sorted(names & runs)


def check_recipe(report: Report, folder: Path, run_dir: RunDirectory) -> None:
    """Compare the recipe of a run with the one that the sweep wrote for it."""
    name, path = run_dir.path.name, folder / "recipes" / f"{run_dir.path.name}.toml"
    if not path.is_file() or not run_dir.recipe.is_file():
        return  # said before
    try:
        recipe = load(path, files=False)
        changes = run_changes(run_dir, recipe)
        own_name = run_dir.read_recipe().get("run", {}).get("name")
    except UserError as error:
        report.differs(run_dir.recipe, f"cannot be compared with recipes/{name}.toml: {error}")
        return
    pairs: list[tuple[str, Any, Any]] = [(key, new, old) for key, (old, new) in changes.items()]
    if own_name != name:
        pairs.append(("run.name", name, own_name))
    report.all_differ(
        run_dir.recipe, f"the value in recipes/{name}.toml", pairs, f"as recipes/{name}.toml"
    )
    _check_seed(report, path, recipe)


def _check_seed(report: Report, path: Path, recipe: Recipe) -> None:
    """Compare the seed of a recipe with the one in its name."""
    if found := re.search(r"-seed-(\d+)$", path.stem):
        text = "run.seed, as the name of the file says"
        report.check(path, text, int(found[1]), recipe.tables.run.seed)


def check_common(report: Report, folder: Path, runs: Sequence[RunContent]) -> None:
    """Check that all runs have the same code, and that no two have the same networks."""
    for entry in (*SAME, *NOTED):
        values: dict[str, list[str]] = {}
        for run in runs:
            value = str(RECORDED[entry](run.environment) or "not recorded")
            values.setdefault(value, []).append(run.run_dir.path.name)
        text = f"{entry}: the same in all runs"
        if len(values) == 1:
            report.holds(folder / "runs", f"{text} ({next(iter(values))})")
        elif values:
            few = [f"{value} in {', '.join(names[:3])}" + ", ..." * (len(names) > 3)
                   for value, names in values.items()]  # fmt: skip
            if entry in SAME:
                report.differs(folder / "runs", text, "one value", "; ".join(few))
            else:
                report.note(folder / "runs", f"the runs differ in {entry}: {'; '.join(few)}")
    _check_distinct(report, folder, runs)


def _check_distinct(report: Report, folder: Path, runs: Sequence[RunContent]) -> None:
    """Check that runs of other seeds do not have the same networks: one would be a copy.

    Two rows with one seed may: their recipes can differ in what changes no network.
    """
    seen: dict[tuple[tuple[str, str], ...], RunContent] = {}
    copies = 0
    for run in runs:
        try:
            newest = max(run.run_dir.checkpoints.glob("step-*"))
            files = tuple(sorted(parse_manifest(newest).files.items()))
        except (OSError, ValueError):
            continue
        other = seen.setdefault(files, run)
        seeds = [r.environment.get("seed") for r in (run, other)]
        names = [r.recipe.get("run", {}).get("seed") for r in (run, other)]
        if other is not run and (seeds[0] != seeds[1] or names[0] != names[1]):
            copies += 1
            report.differs(newest, "networks of its own", "other files than every other run's",
                           f"those of {report.name(other.run_dir.path)}")  # fmt: skip
    if not copies and runs:
        report.holds(folder / "runs", "no two seeds have the same networks")
