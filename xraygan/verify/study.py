"""The results of a utility study, made again from its runs and compared with its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraygan.errors import UserError
from xraygan.rundir.file_readers import LARGEST
from xraygan.rundir.reader import RunFiles
from xraygan.study.again import Again, results_again
from xraygan.study.page import html, texts
from xraygan.utils.atomic_files import as_json
from xraygan.utils.parsing import parse_json, read_bytes, read_text
from xraygan.utils.progress import Display

from .audit import check_study_audit
from .places import STUDY, same_place
from .report import Report
from .study_design import check_asked, check_left_out, check_planned
from .study_files import AUDIT, StudyFiles, read_study
from .study_images import StudyImages, read_images
from .tables import (
    LAST_DECIMAL,
    compare_csv,
    compare_page,
    compare_picture,
    compare_text,
    read_or_report,
)
from .values import compare_values

Object = dict[str, Any]


def check_study(
    report: Report,
    folder: Path,
    overrides: Sequence[str],
    display: Display,
    tolerance: float | None,
    *,
    audit: bool,
) -> None:
    """Compare the files of a study with what its runs, its images and its ``audit.json`` give.

    What was chosen on validation images is chosen again, by the rules of a study.

    Args:
        overrides: where the data are now and the device, as ``--set``.
        tolerance: see :func:`check_study_audit`.
        audit: whether to make the audit again.
    """
    if (study := read_study(report, folder, overrides)) is None:
        report.unchecked(folder, "the results and the audit are not made again: see its files")
        return
    check_asked(report, study)
    images = read_images(report, study, overrides, display)
    check_left_out(report, study, images)
    _check_results(report, study, images)
    if audit:
        check_study_audit(report, study, images, display, tolerance)
    else:
        report.unchecked(folder / AUDIT, "not made again, as --evaluations asks")


def _check_results(report: Report, study: StudyFiles, images: StudyImages) -> None:
    from xraygan.study.figure import draw_figure  # matplotlib takes seconds to import

    path = study.folder / STUDY
    try:
        again = results_again(study.design, study.source, images.pool, study.audit)
    except (OSError, ValueError, UserError) as error:
        report.differs(path, f"the results cannot be made again: {error}")
        return
    check_planned(report, study, again)
    content = _expected(report, study, images, again)
    _check_numbers(report, path, study.content.get("real"), content["real"])
    pairs, _ = compare_values(study.content, content, LAST_DECIMAL, strict=True)
    given = "what its runs, images and audit.json give"
    report.all_differ(path, given, pairs, f"says {given}")
    version = study.content["xraygan"]
    for name, text in texts(content, again.tested).items():
        there = read_or_report(report, study.folder / name, "a table of the study", read_text)
        if there is None:
            continue
        if name.endswith(".csv"):
            compare_csv(report, study.folder / name, there, text, keys=("real", "arm"))
        else:
            compare_text(report, study.folder / name, there, text, version)
    compare_picture(report, study.folder / "utility.png", draw_figure(content))
    _check_page(report, study.folder, content, version)


def _check_numbers(report: Report, path: Path, there: Any, made: list[Object]) -> None:
    """Name the numbers of real images that the results leave out or add, of which they would all
    be printed otherwise."""
    expected, found = (
        [str(one.get("described")) for one in some if isinstance(one, dict)]
        for some in (made, there if isinstance(there, list) else [])
    )
    if expected != found:
        report.differs(
            f"{report.name(path)}: real",
            "the numbers of real images that have runs",
            ", ".join(expected),
            ", ".join(found) or None,
        )


def _expected(report: Report, study: StudyFiles, images: StudyImages, again: Again) -> Object:
    """The content that ``utility.json`` should have; what cannot be made again is as it is there,
    and said to be not checked."""
    there = study.content
    made = again.content | images.content(study)
    # Both are written by one command.
    made["xraygan"] = study.audit["xraygan"]
    if same_source(there["source"], made["source"]):
        made["source"] = there["source"]
    if "test" not in made:
        protocol = RunFiles(again.tested[0].run_dir.path).evaluation.get("protocol", {})
        made["test"] = {key: protocol.get(key) for key in ("images", "patients")}
    name = report.name(study.folder / STUDY)
    for key in [key for key in made if key not in there and key == "generator_trained_on"]:
        del made[key]
        report.unchecked(f"{name}: {key}", "an earlier version did not write it")
    for key in there.keys() - made.keys():
        why = images.missing.get(key, "nothing says what it should be")
        report.unchecked(f"{name}: {key}", why)
    return {**there, **parse_json(as_json(made))}


def same_source(first: str, second: str) -> bool:
    """Whether two texts name one source; what was asked for may be written with its whole path."""
    (kind, _, path), (other, _, place) = first.partition(" "), second.partition(" ")
    return kind == other and same_place(Path(path), Path(place))


def _check_page(report: Report, folder: Path, content: Object, version: str) -> None:
    """Compare the page, with the pictures that lie beside it."""
    try:
        pictures = [read_bytes(folder / name, LARGEST) for name in ("utility.png", "audit.png")]
    except (OSError, ValueError) as error:
        report.differs(folder / "utility.html", "its pictures", "files beside it", str(error))
        return
    compare_page(report, folder / "utility.html", html(content, *pictures), version)
