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
from xraygan.errors import UserError
from xraygan.rundir import file_readers
from xraygan.rundir.directory import device_name
from xraygan.session.session import modes, restore_session
from xraygan.study.audited import audit_study, evaluation_of, measuring
from xraygan.utils.atomic_files import as_json
from xraygan.utils.parsing import parse_json
from xraygan.utils.precision import threads
from xraygan.utils.progress import Display

from .files import RunContent
from .places import STUDY
from .report import Report
from .study_files import AUDIT, StudyFiles
from .study_images import StudyImages
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
        for key in ("generated", "seed"):
            if not isinstance(asked.get(key), int):
                raise ValueError(f"protocol.{key}: expected a whole number")
        with threads(run.threads):
            session, _, step = restore_session(
                place.path, overrides, display, str(there["step"]), measure=False
            )
            made, picture = audit_run(
                session, place, step, asked["generated"], asked["seed"], display
            )
    except (UserError, ValueError) as error:
        report.differs(place.audit, f"the audit cannot be made again: {error}")
        return
    precision = run.recipe.get("run", {}).get("precision", "auto")
    devices = (run.environment.get("device"), device_name(session.device))
    allowed = elsewhere(precision, devices).figures if tolerance is None else tolerance
    _compare(report, place.audit, there, made, picture, allowed)


def check_study_audit(
    report: Report,
    study: StudyFiles,
    images: StudyImages,
    display: Display,
    tolerance: float | None = None,
) -> None:
    """Audit the generated images of a study again; see :func:`check_audit`."""
    path, data = study.folder / AUDIT, images.data
    if data is None or images.generated is None or images.training is None:
        why = next(iter(images.missing.values()), "its images are not at hand")
        report.unchecked(path, f"not made again: {why}")
        return
    if data.fingerprint != (recorded := study.content["fingerprint"]):
        report.differs(
            path,
            f"the audit cannot be made again: the images are not those of {STUDY}: their "
            f"fingerprint is {data.fingerprint}, and it says {recorded}",
        )
        return
    recipe, options = study.design.recipe, study.design.options
    try:
        compared = measuring(recipe, options, data.task)
        evaluation = evaluation_of(*compared, images.generated, data, images.training)
        made, picture = audit_study(evaluation, options, display)
    except UserError as error:
        report.differs(path, f"the audit cannot be made again: {error}")
        return
    # Pixels are compared in float64, features in the precision of the extractor.
    precision = "fp32" if options.extractor is None else recipe.tables.run.precision
    allowed = elsewhere(precision, [device_name(modes(recipe)[0])]).figures
    _compare(report, path, study.audit, made, picture, allowed if tolerance is None else tolerance)


def _compare(
    report: Report, path: Path, there: Object, made: Object, picture: bytes, allowed: float
) -> None:
    try:
        pairs, largest = compare_audits(there, parse_json(as_json(made)), allowed)
    except ValueError as error:
        report.differs(path, f"no audit writes such a file: {error}")
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

    Raises:
        ValueError: no audit writes such a content.
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
        for pair in _pairs(content)
    }
    return tree


def _texts(content: Object, *, exact: bool) -> Object:
    """The texts of an audit, without digits unless all figures are exact."""
    tree = {key: content[key] for key in _TEXTS if key in content}
    if not exact:
        return {key: re.sub(r"[\d.,]+", "#", str(value)) for key, value in tree.items()}
    for key in _OF_NEAREST:
        tree[key] = {_name(pair): pair.get(key) for pair in _pairs(content)}
    return tree


def _pairs(content: Object) -> list[Object]:
    pairs = content.get("nearest")
    if isinstance(pairs, list) and all(
        isinstance(pair, dict) and {"generated", "space"} <= pair.keys() for pair in pairs
    ):
        return pairs
    raise ValueError("nearest: expected pairs of images, each with generated and space")


def _name(pair: Object) -> str:
    return f"{pair['generated']} in {pair['space']}"
