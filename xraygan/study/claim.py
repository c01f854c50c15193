"""The folder of a study: for one study, of the same images from its first run to its last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter

from xraygan.errors import UserError
from xraygan.recipe.files import plain
from xraygan.recipe.loading import Recipe
from xraygan.rundir.provenance import changes, material
from xraygan.sweep.existing_runs import Changes, describe_changes
from xraygan.utils.atomic_files import as_json, write_atomically
from xraygan.utils.output_folder import require_empty_folder
from xraygan.utils.parsing import parse_json, parse_toml, read_text

from .design import STAGES, Design
from .pool import FILTERED, GENERATED, is_made
from .record import ASKED, GENERATOR, LARGEST, Source, read_asked

Object = dict[str, Any]

#: what is asked for, by what messages call it, if it decides the result: the metric too, since who
#: has seen the figures must not choose it. What else does is in the recipe of all runs.
_BINDING = {
    "run": "RUN", "folder": "--images",
    **{key: f"--{key.replace('_', '-')}" for key in (
        "checkpoint", "table", "real", "ratios", "filters", "keep", "seeds", "choice_seeds",
        "count", "metric", "extractor", "arms", "seed",
    )},
}  # fmt: skip
_PATHS = ("run", "folder", "table")
_DIGESTS = TypeAdapter(dict[str, str])


def check_folder(folder: Path) -> None:
    """Check that a folder is one for a study: new, empty, or one that holds a study.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    if not (folder / ASKED).exists():
        require_empty_folder(folder)
        return
    try:
        read_asked(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / ASKED}: no study writes such a file; restore it, or name a new folder with "
            "--out"
        ) from error


def claim(
    design: Design,
    source: Source,
    generator: Recipe | None = None,
    images: Mapping[str, str] | None = None,
) -> None:
    """Write what is asked for into a study's folder, or check that its study is the same.

    A study that has made nothing yet is replaced, so that a mistake in it can be mended.

    Args:
        generator: the recipe of the run whose generator made the images; None for a folder.
        images: digests of images, by what messages call the images. Those that the folder does not
            record yet are added.

    Raises:
        UserError: the folder holds another study, one of other images, or something else; or it
            cannot be written.
    """
    folder, digests = design.folder, dict(images or {})
    recipes = {design.base: design.recipe}
    if generator is not None:
        recipes[folder / GENERATOR] = generator
    asked: Object = {key: plain(v) for key, v in (asdict(source) | asdict(design.options)).items()}
    asked |= {key: _resolved(asked[key]) for key in _PATHS}
    check_folder(folder)
    try:
        if (folder / ASKED).exists() and _begun(folder):
            there = parse_json(read_text(folder / ASKED, LARGEST))
            _refuse_other(folder, _changes(there, asked, recipes))
            # Studies of a former version have none.
            before = _DIGESTS.validate_python(there.get("images", {}))
            _refuse_other_images(folder, before, digests)
            digests = before | digests
        folder.mkdir(parents=True, exist_ok=True)
        # First, since the others without it would be files of somebody else.
        write_atomically(folder / ASKED, as_json(asked | {"images": digests}))
        for path, recipe in recipes.items():
            write_atomically(path, tomli_w.dumps(recipe.resolved()))
        if generator is None:
            (folder / GENERATOR).unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        raise UserError(
            f"{folder}: cannot be used ({reason}); mend this, or name a new folder with --out"
        ) from error


def _begun(folder: Path) -> bool:
    """Whether a study has made images or runs, which would be those of another one."""
    runs = (path for stage in STAGES for path in (folder / stage / "runs").glob("*"))
    return is_made(folder / GENERATED) or (folder / FILTERED).exists() or any(runs)


def _changes(there: Object, asked: Object, recipes: Mapping[Path, Recipe]) -> Changes:
    """How what is asked for differs from what a folder's study was asked for."""
    pairs = {
        name: (_shown(key, there.get(key)), _shown(key, asked[key]))
        for key, name in _BINDING.items()
    }
    changed: Changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    for path, recipe in recipes.items():
        if path.name == GENERATOR and not path.exists():
            continue  # of a study of a former version, or of a folder, so that RUN differs
        found = material(changes(parse_toml(read_text(path, LARGEST)), recipe))
        of = "" if path.name != GENERATOR else "of the generator's run: "
        changed |= {f"{of}{key}": pair for key, pair in found.items()}
    return changed


def _resolved(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _shown(key: str, value: Any) -> Any:
    """A value as its option is written."""
    if key in _PATHS:
        return _resolved(value)
    if isinstance(value, list | tuple):
        return ",".join("all" if one is None else str(one) for one in value) or "none"
    return value


def _refuse_other(folder: Path, changed: Changes) -> None:
    if changed:
        raise UserError(
            "\n".join([f"{folder}: it holds another study:", *describe_changes(changed)])
            + "\nName another folder with --out, or continue that study with its own options"
        )


def _refuse_other_images(folder: Path, there: Object, now: Mapping[str, str]) -> None:
    if changed := [name for name, digest in now.items() if there.get(name, digest) != digest]:
        raise UserError(
            f"{folder}: {' and '.join(changed)} are not those that its runs began with; restore "
            "them, or name another folder with --out for a study of these"
        )
