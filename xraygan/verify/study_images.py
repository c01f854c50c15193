"""The images of a utility study, as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xraygan.data.datamodule import ImageData
from xraygan.data.generated import read_listed
from xraygan.data.image_splits import ImageSplit
from xraygan.errors import UserError
from xraygan.recipe.loading import load
from xraygan.recipe.training_images import GeneratedImages
from xraygan.study.again import PoolOfRuns
from xraygan.study.audited import learned_from
from xraygan.study.pool import TABLE, Pool, real_images
from xraygan.study.record import GENERATOR, Object, of_data, of_generated
from xraygan.utils.progress import Display

from .data import missing_generated, missing_images
from .places import Place, generated_place, without_generated
from .report import Report
from .study_files import StudyFiles

#: keys of ``utility.json`` that count images
COUNTED = ("fingerprint", "trained_on", "generator_trained_on", "test", "generated")


@dataclass(frozen=True)
class StudyImages:
    """The images of a study that are at hand.

    Attributes:
        pool: which numbers, ratios and filters there are enough images for; by the runs if the
            images are not at hand.
        data: the real images of the study.
        generated: the generated ones.
        training: the real images that the generator learned from; those of the study for a folder.
        missing: why images are not at hand, by the keys of ``utility.json`` that count them.
    """

    pool: Pool
    data: ImageData | None = None
    generated: ImageSplit | None = None
    training: ImageData | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def content(self, study: StudyFiles) -> Object:
        """What of ``utility.json`` follows from the images that are at hand."""
        content: Object = {}
        if self.data is not None:
            content |= of_data(self.data)
            if self.generated is not None:
                content |= of_generated(self.data.task.classes, self.generated)
        if study.source.run is None:
            content["generator_trained_on"] = None
        elif self.training is not None:
            content["generator_trained_on"] = len(self.training.splits["train"])
        return content


def read_images(
    report: Report, study: StudyFiles, overrides: Sequence[str], display: Display
) -> StudyImages:
    """The images of a study; what is at fault is a difference in the report.

    Args:
        overrides: where they are now, as ``--set``.
    """
    try:
        return _read_images(study, overrides, display)
    except UserError as error:
        report.differs(study.folder, f"the images of the study cannot be prepared: {error}")
        why = "the images cannot be prepared"
        return StudyImages(PoolOfRuns.of(study.design), missing=dict.fromkeys(COUNTED, why))


def _read_images(study: StudyFiles, overrides: Sequence[str], display: Display) -> StudyImages:
    design, source = study.design, study.source
    recipe = design.recipe
    if (why := missing_images(recipe)) is not None:
        return StudyImages(PoolOfRuns.of(design), missing=dict.fromkeys(COUNTED, why))
    data, real = real_images(recipe, design.options.real, Display(quiet=True))
    training: ImageData | None = data
    missing = {}
    if source.run is not None:
        training, why = _learned_from(study, overrides, display)
        missing = {} if why is None else {"generator_trained_on": why}
    recorded = recorded_place(study)
    place = generated_place(recorded, study.folder, overrides)
    if (why := missing_generated(place)) is not None:
        missing["generated"] = why
        return StudyImages(PoolOfRuns.of(design, real), data, None, training, missing)
    config = GeneratedImages(table=str(place.table), root=str(place.root))
    classes = data.task.classes
    split = read_listed(recipe, config, data.task, classes, display.progress).split
    # Its runs name the table where it was.
    pool = Pool(recorded.root, recorded.table, split, real)
    return StudyImages(pool, data, split, training, missing)


def _learned_from(
    study: StudyFiles, overrides: Sequence[str], display: Display
) -> tuple[ImageData | None, str | None]:
    """The images that the generator learned from, or why they are not at hand."""
    path = study.folder / GENERATOR
    if not path.is_file():
        return None, f"there is no {GENERATOR}, which says what the generator learned from"
    trained = load(path, without_generated(overrides), files=False)
    if (why := missing_images(trained)) is not None:
        return None, why
    return learned_from(trained, study.design.recipe, display.progress), None


def recorded_place(study: StudyFiles) -> Place:
    """Where the generated images of a study were; for those of a run, in the study's folder."""
    root = study.design.root
    return Place(study.source.table or root / TABLE, root)
