"""Audits made again, and compared with ``audit.json`` and ``audit.png``.

Nothing records on which machine an audit was made, so its figures may always differ as those of
another machine do; the report says by how much they differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraygan._version import __version__
from xraygan.audit.audit import audit_run
from xraygan.data.datamodule import prepare
from xraygan.data.generated import read_listed
from xraygan.errors import UserError
from xraygan.recipe.loading import load
from xraygan.recipe.training_images import GeneratedImages
from xraygan.rundir import file_readers
from xraygan.rundir.directory import device_name
from xraygan.session.session import modes, restore_session
from xraygan.study.audited import audit_study, evaluation_of, learned_from
from xraygan.study.design import BASE
from xraygan.study.pool import GENERATED, TABLE
from xraygan.study.record import GENERATOR, Source, read_asked
from xraygan.utils.atomic_files import as_json
from xraygan.utils.parsing import parse_json, read_text
from xraygan.utils.precision import threads
from xraygan.utils.progress import Display

from .data import missing_generated, missing_images
from .files import RunContent
from .places import STUDY, Place, generated_place, without_generated
from .report import Report
from .tables import compare_picture
from .values import Pairs, compare_values, elsewhere, within

Object = dict[str, Any]

#: the figures of ``audit.json``
_FIGURES = ("verdict", "step", "protocol", "copies", "membership", "resemblance")
#: its texts, which hold rounded figures
_TEXTS = ("says", "notes")
#: of a pair of images: what the nearest training image decides, which another one can be by a
#: rounding error where two are equally near
_OF_NEAREST = ("training", "flagged")


def check_audit(
    report: Report,
    run: RunContent,
    overrides: Sequence[str],
    display: Display,
    tolerance: float | None = None,
) -> None:
    """Audit a run again that has an audit.

    Args:
        overrides: where the data are now and the device, as ``--set``.
        tolerance: how far figures may differ, relative to 1 or to the value if it is larger; by
            default as on another machine.
    """
    place = run.run_dir
    if not place.audit.is_file():
        return
    try:
        there = file_readers.needed(place.audit, file_readers.audit, "no audit writes such a file")
        asked = there["protocol"]
        if "data_differs" in asked or "trained_on_fingerprint" in asked:
            report.unchecked(place.audit, "not made again: it was made with other images than the "
                             "run's")  # fmt: skip
            return
        with threads(run.threads):
            session, _, step = restore_session(
                place.path, overrides, display, str(there["step"]), measure=False
            )
            made, picture = audit_run(
                session, place, step, asked["generated"], asked["seed"], display
            )
    except (UserError, KeyError, TypeError, ValueError) as error:
        report.differs(place.audit, f"the audit cannot be made again: {error}")
        return
    precision = run.recipe.get("run", {}).get("precision", "auto")
    devices = (run.environment.get("device"), device_name(session.device))
    allowed = elsewhere(precision, devices).figures if tolerance is None else tolerance
    _compare(report, place.audit, there, made, picture, allowed)


def check_study_audit(
    report: Report,
    study: Path,
    overrides: Sequence[str],
    display: Display,
    tolerance: float | None = None,
) -> None:
    """Audit the generated images of a study again; see :func:`check_audit`."""
    path = study / "audit.json"
    try:
        there = parse_json(read_text(path, file_readers.LARGEST))
        made, picture, allowed = _audit_again(study, overrides, display)
    except _NotAtHand as missing:
        report.unchecked(path, f"not made again: {missing}")
        return
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        report.differs(path, f"the audit cannot be made again: {error}")
        return
    _compare(report, path, there, made, picture, allowed if tolerance is None else tolerance)


class _NotAtHand(Exception):
    """What an audit needs is not at hand."""


def _audit_again(
    study: Path, overrides: Sequence[str], display: Display
) -> tuple[Object, bytes, float]:
    """The content of a study's ``audit.json`` and ``audit.png``, and how far figures may differ on
    another machine."""
    source, options = read_asked(study)
    real = without_generated(overrides)
    recipe = trained = load(study / BASE, real, files=False)
    if source.run is not None:
        if not (study / GENERATOR).is_file():
            raise _NotAtHand(f"there is no {GENERATOR}, which says what the generator learned from")
        trained = load(study / GENERATOR, real, files=False)
    table, root = place = generated_place(_recorded(study, source), study, overrides)
    missing = missing_images(recipe) or missing_images(trained) or missing_generated(place)
    if missing is not None:
        raise _NotAtHand(missing)
    data = training = prepare(recipe, display.progress)
    recorded = parse_json(read_text(study / STUDY, file_readers.LARGEST))["fingerprint"]
    if data.fingerprint != recorded:
        raise UserError(
            f"the images are not those of {STUDY}: their fingerprint is {data.fingerprint}, and it "
            f"says {recorded}"
        )
    if source.run is not None:
        training = learned_from(trained, recipe, display.progress)
    config = GeneratedImages(table=str(table), root=str(root))
    listed = read_listed(recipe, config, data.task, data.task.classes, display.progress)
    evaluation = evaluation_of(recipe, options, listed.split, data, training)
    content, picture = audit_study(evaluation, options, display)
    # Pixels are compared in float64, features in the precision of the extractor.
    precision = "fp32" if options.extractor is None else recipe.tables.run.precision
    return content, picture, elsewhere(precision, [device_name(modes(recipe)[0])]).figures


def _recorded(study: Path, source: Source) -> Place:
    """Where the generated images of a study were."""
    root = study / GENERATED if source.folder is None else source.folder
    return Place(source.table or root / TABLE, root)


def _compare(
    report: Report, path: Path, there: Object, made: Object, picture: bytes, allowed: float
) -> None:
    try:
        pairs, largest = compare_audits(there, parse_json(as_json(made)), allowed)
    except (AttributeError, KeyError, TypeError) as error:
        report.differs(path, f"no audit writes such a file: {error!r}")
        return
    text = "what the audit gives when it is made again"
    report.all_differ(path, text, pairs, f"made again: {within(largest)}")
    compare_picture(report, path.with_name("audit.png"), picture)


def compare_audits(there: Object, now: Object, allowed: float) -> tuple[Pairs, float]:
    """Compare the content of ``audit.json`` with that of an audit that is made again.

    Args:
        allowed: how far numbers may differ, relative to 1 or to the value if it is larger.

    Returns:
        The differences: key, value now, value there. And the largest relative difference of
        numbers.
    """
    same_version = there.get("xraygan") == __version__
    pairs, largest = compare_values(_figures(there), _figures(now), allowed, strict=same_version)
    if same_version:  # another one may word texts otherwise
        texts = [_texts(content, exact=not largest) for content in (there, now)]
        pairs += compare_values(texts[0], texts[1], allowed, strict=True)[0]
    return pairs, largest


def _figures(content: Object) -> Object:
    tree = {key: content[key] for key in _FIGURES if key in content}
    tree["nearest"] = {
        _name(pair): {key: value for key, value in pair.items() if key not in _OF_NEAREST}
        for pair in content["nearest"]
    }
    return tree


def _texts(content: Object, *, exact: bool) -> Object:
    """The texts of an audit, without digits unless all figures are exact."""
    tree = {key: content[key] for key in _TEXTS if key in content}
    if not exact:
        return {key: re.sub(r"[\d.,]+", "#", str(value)) for key, value in tree.items()}
    for key in _OF_NEAREST:
        tree[key] = {_name(pair): pair[key] for pair in content["nearest"]}
    return tree


def _name(pair: Object) -> str:
    return f"{pair['generated']} in {pair['space']}"
