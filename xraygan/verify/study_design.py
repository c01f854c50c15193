"""What a utility study was asked for, compared with its recipe and its runs."""

from __future__ import annotations

import json
from pathlib import Path

from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.provenance import changes, material_changes
from xraygan.study.again import Again, Planned
from xraygan.study.design import BASE, STAGES, describe_real
from xraygan.study.pool import FILTERED, GENERATED, TABLE
from xraygan.study.record import ASKED
from xraygan.sweep.file import flatten
from xraygan.utils.parsing import parse_toml, read_text

from .places import same_place
from .report import Report
from .study_files import StudyFiles
from .study_images import StudyImages
from .values import Pairs

#: keys of a recipe that say where images are, which are compared by their content
_PLACES = ("data.root", "data.cache", "run.device")
_GENERATED = ("data.generated.table", "data.generated.root")


def check_asked(report: Report, study: StudyFiles) -> None:
    """Compare what was asked for with the recipe that all runs extend."""
    path, options = study.folder / BASE, study.design.options
    steps = [] if options.steps is None else [f"run.steps={options.steps}"]
    try:
        recipe = load(path, (*steps, *options.overrides), files=False)
        changed = changes(parse_toml(read_text(path)), recipe)
    except (OSError, ValueError, UserError) as error:
        report.differs(study.folder / ASKED, f"overrides: {error}")
        return
    moved = (*_PLACES, *recipe.files())
    pairs: Pairs = [(key, new, old) for key, (old, new) in changed.items() if key not in moved]
    report.all_differ(path, f"the value that {ASKED} asks for", pairs, f"as {ASKED} asks")


def check_left_out(report: Report, study: StudyFiles, images: StudyImages) -> None:
    """Name what was asked for and has no runs, if the images that say why are not at hand."""
    if images.data is not None and images.generated is not None:
        return  # the results are made again with what there are images for
    path, asked = study.folder / ASKED, dict.fromkeys(study.design.options.real)
    if left := [describe_real(real) for real in asked if real not in images.pool.real]:
        report.unchecked(
            path,
            f"real: {', '.join(left)} has no runs: whether no class has more training images, "
            "which leaves it out, only the images show",
        )
    report.unchecked(
        path,
        "ratios, filters and keep: those without runs were left out if there are too few generated "
        "images, which only the images show",
    )


def check_planned(report: Report, study: StudyFiles, again: Again) -> None:
    """Compare the runs of a study with those that follow from what was asked for."""
    for part in STAGES:
        runs = {path for path in (study.folder / part / "runs").glob("*") if path.is_dir()}
        for path in sorted(runs - again.planned.keys()):
            report.differs(path, "a run that the results do not name", "none", "a run")
    places: set[tuple[str, str]] = set()
    wrong = 0
    for _, planned in sorted(again.planned.items()):
        pairs = _differences(report, study, planned, places)
        wrong += len(pairs)
        for key, expected, found in pairs:
            text = f"{key}: what {ASKED} and {BASE} give"
            report.differs(planned.run.run_dir.recipe, text, expected, found)
    if not wrong:
        report.holds(study.folder / ASKED, f"gives, with {BASE}, the recipes of all runs")


def _differences(
    report: Report, study: StudyFiles, planned: Planned, places: set[tuple[str, str]]
) -> Pairs:
    """The keys in which a run's recipe differs from the one that the study gives it.

    Args:
        places: where the generated images of other runs are; each place is looked at once.
    """
    run = planned.run
    try:
        recipe = _recipe(study, planned)
        changed = material_changes(run.run_dir, recipe)
    except UserError as error:
        report.differs(run.run_dir.recipe, f"cannot be compared with {BASE}: {error}")
        return []
    pairs: Pairs = []
    for key, (old, new) in changed.items():
        if key not in _GENERATED or old is None or new is None:
            if key not in _PLACES:
                pairs.append((key, new, old))
        elif (str(old), str(new)) not in places:
            places.add((str(old), str(new)))
            if not _is_place(study, Path(str(old)), Path(str(new))):
                pairs.append((key, new, old))
    return pairs


def _recipe(study: StudyFiles, planned: Planned) -> Recipe:
    """The recipe that a study gives a run; files that it names need not be at hand."""
    tree = planned.sweep.tree(planned.run.row, planned.run.seed)
    keys = flatten({key: value for key, value in tree.items() if key != "extends"})
    overrides = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    return load(study.folder / BASE, overrides, files=False)


def _is_place(study: StudyFiles, found: Path, expected: Path) -> bool:
    """Whether images or tables were where the study has them, wherever its folder was."""
    if expected.parent == study.folder / FILTERED:  # a run's own table has a longer name
        same = found.stem == expected.stem or found.stem.startswith(f"{expected.stem}-")
        return same and found.parent.name == FILTERED
    if study.source.run is not None:
        expected = Path(GENERATED) / TABLE if expected.suffix else Path(GENERATED)
    return same_place(found, expected)
