"""The files of a utility study from which its results follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from xraygan.errors import UserError
from xraygan.recipe.loading import Recipe, load
from xraygan.rundir.file_readers import LARGEST
from xraygan.rundir.file_schemas import Count, Schema, validated
from xraygan.study.design import BASE, OPTIONAL, Design, Options
from xraygan.study.filters import FILTERS, NONE
from xraygan.study.pool import GENERATED
from xraygan.study.record import ASKED, Source, read_asked
from xraygan.utils.limits import MOST, MOST_RUNS, MOST_STEPS
from xraygan.utils.parsing import parse_json, read_text

from .places import STUDY, without_generated
from .report import Report

AUDIT = "audit.json"
#: bounds of what can be asked for, so that a file cannot ask for endless work
MOST_SEEDS, MOST_OF_STUDY = 1000, 10 * MOST_RUNS

Object = dict[str, Any]
Content = TypeVar("Content")
Number = Annotated[int, Field(ge=1, le=MOST)]
Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS)]
Ratio = Annotated[float, Field(ge=0.001, le=1000)]
Share = Annotated[float, Field(ge=0.001, le=0.999)]


class AskedFile(Schema):
    """``asked.json``."""

    run: str | None
    checkpoint: str
    folder: str | None
    table: str | None
    recipe: str
    real: list[Number | None] = Field(min_length=1)
    ratios: list[Ratio] = Field(min_length=1)
    filters: list[Literal[(NONE, *FILTERS)]] = Field(min_length=1)  # type: ignore[valid-type]
    keep: list[Share] = Field(min_length=1)
    seeds: Seeds
    choice_seeds: Seeds
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None
    count: Number
    metric: str
    extractor: str | None
    arms: list[Literal[tuple(OPTIONAL)]]  # type: ignore[valid-type]
    seed: Count
    overrides: list[str]

    @model_validator(mode="after")
    def _of_one_study(self) -> AskedFile:
        if (self.run is None) == (self.folder is None):
            raise ValueError("expected either a run or a folder of images")
        images = len(self.ratios) * (1 + len(self.filters) * len(self.keep))
        arms = images + len(OPTIONAL)
        if len(self.real) * arms * (self.seeds + self.choice_seeds) > MOST_OF_STUDY:
            raise ValueError(f"expected at most {MOST_OF_STUDY:,} runs")
        return self


class Generated(Schema):
    images: Count
    classes: dict[str, Count]


class Tested(Schema):
    images: Count
    patients: Count


class UtilityFile(Schema):
    """``utility.json``: what of it is not made again from other files, or only with the images."""

    xraygan: str
    command: str
    source: str
    generated: Generated
    fingerprint: str
    trained_on: Count
    generator_trained_on: Count | None = None
    test: Tested


class AuditFile(Schema):
    """``audit.json`` of a study: what of it the results repeat."""

    xraygan: str
    verdict: str
    says: str
    notes: list[str]


@dataclass(frozen=True)
class StudyFiles:
    """What a study was asked for and what it says.

    Attributes:
        design: with the recipe that all runs extend, and the place where the study's images were.
        content: of ``utility.json``.
        audit: of ``audit.json``.
    """

    folder: Path
    source: Source
    design: Design
    content: Object
    audit: Object


def read_study(report: Report, folder: Path, overrides: Sequence[str]) -> StudyFiles | None:
    """The files of a study; None, and a difference in the report for each, if any is at fault.

    Args:
        overrides: where the data are now, as ``--set``.
    """

    def asked() -> tuple[Source, Options]:
        validated(parse_json(read_text(folder / ASKED, LARGEST)), AskedFile)
        return read_asked(folder)

    def base() -> Recipe:
        read_text(folder / BASE, LARGEST)  # whose absence is told as that of the other files
        return load(folder / BASE, without_generated(overrides), files=False)

    def of(name: str, schema: type[Schema]) -> Callable[[], Object]:
        return lambda: validated(parse_json(read_text(folder / name, LARGEST)), schema)

    content = _read(report, folder / STUDY, "the study is not finished", of(STUDY, UtilityFile))
    audit = _read(report, folder / AUDIT, "the audit of the study", of(AUDIT, AuditFile))
    recipe = _read(report, folder / BASE, "the recipe that all runs extend", base)
    what = _read(report, folder / ASKED, "what the study was asked for", asked)
    if content is None or audit is None or recipe is None or what is None:
        return None
    source, options = what
    root = folder / GENERATED if source.folder is None else source.folder
    return StudyFiles(folder, source, Design(recipe, options, folder, root), content, audit)


def _read(report: Report, path: Path, absent: str, read: Callable[[], Content]) -> Content | None:
    try:
        return read()
    except FileNotFoundError:
        report.differs(path, absent, "a file", "none")
    except OSError as error:
        report.differs(path, f"cannot be read ({error.strerror})")
    except UserError as error:
        report.differs(path, str(error).removeprefix(f"{path}: "))
    except ValueError as error:
        report.differs(path, f"no study writes such a file: {error}")
    return None
