"""What a study writes down: what it is asked for, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from xraygan._version import __version__
from xraygan.data.datamodule import ImageData
from xraygan.data.image_splits import ImageSplit
from xraygan.statistics.paired_bootstrap import Estimate
from xraygan.utils.parsing import parse_json, read_text

from .choice import Choice
from .design import Design, Options, candidate, describe_real
from .pool import Pool
from .verdict import Outcome, Outcomes, recommendation, sentence

Object = dict[str, Any]

#: file that says what is asked for
ASKED = "asked.json"
#: file of the recipe of the run whose generator made the images
GENERATOR = "generator.toml"
LARGEST = 1 << 20  # most bytes of the file that says what is asked for
#: what of ``audit.json`` is in ``utility.json``
OF_AUDIT = ("verdict", "says", "notes")


@dataclass(frozen=True)
class Source:
    """Where the generated images come from.

    Attributes:
        run: the run whose generator makes them; None for a folder.
        checkpoint: of the run.
        folder, table: a folder of images and the table of their labels; None for a run.
        recipe: the recipe of the classifier's data, the run's own by default.
    """

    run: Path | None = None
    checkpoint: str = "latest"
    folder: Path | None = None
    table: Path | None = None
    recipe: str = ""

    def describe(self) -> str:
        return f"run {self.run}" if self.run is not None else f"folder {self.folder}"


_SOURCE, _OPTIONS = TypeAdapter(Source), TypeAdapter(Options)


def read_asked(folder: Path) -> tuple[Source, Options]:
    """What a study is asked for, from its folder.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: no study writes such a file.
    """
    content = parse_json(read_text(folder / ASKED, LARGEST))
    return _SOURCE.validate_python(content), _OPTIONS.validate_python(content)


def summary(
    design: Design,
    source: Source,
    pool: Pool,
    data: ImageData,
    training: ImageData,
    audit: Object,
    choices: Mapping[int | None, Choice],
    found: Outcomes,
    command: str,
) -> Object:
    """The content of ``utility.json``.

    Args:
        training: of the generator, if the images are those of a run.
        command: the command that repeats the study.
    """
    return {
        "xraygan": __version__,
        "command": command,
        **of_runs(design, source, audit, choices, found),
        **of_generated(data.task.classes, pool.split),
        **of_data(data),
        "generator_trained_on": None if source.run is None else len(training.splits["train"]),
    }


def of_runs(
    design: Design,
    source: Source,
    audit: Object,
    choices: Mapping[int | None, Choice],
    found: Outcomes,
) -> Object:
    """What of ``utility.json`` follows from what is asked for, the runs and ``audit.json``."""
    chosen = {n: choice.use for n, choice in choices.items()}
    return {
        "recommendation": recommendation(found, chosen, audit["verdict"]),
        "metric": design.options.metric,
        "source": source.describe(),
        "audit": {key: audit[key] for key in OF_AUDIT},
        "filters": [*design.options.filters],
        "steps": design.recipe.tables.run.steps,
        "batch_size": design.recipe.tables.run.batch_size,
        "real": [_result(n, choices[n], found[n], design.options.metric) for n in choices],
    }


def of_generated(classes: Sequence[str], images: ImageSplit) -> Object:
    """What ``utility.json`` says of the generated images."""
    counts = map(int, images.label_matrix.sum(axis=0))
    return {
        "generated": {
            "images": len(images),
            "classes": dict(zip(classes, counts, strict=True)),
        }
    }


def of_data(data: ImageData) -> Object:
    """What ``utility.json`` says of the real images."""
    test = data.splits["test"]
    return {
        "fingerprint": data.fingerprint,
        "trained_on": len(data.splits["train"]),
        "test": {"images": len(test), "patients": len(np.unique(test.patients))},
    }


def _result(real: int | None, choice: Choice, found: Mapping[str, Outcome], metric: str) -> Object:
    """The entry of one number of real images.

    Args:
        found: the outcomes of all arms on test images.
    """
    assert choice.mixed.images is not None and choice.before.images is not None
    return {
        "real": real,
        "described": describe_real(real),
        "mixed": choice.mixed.images.describe(),
        "before": choice.before.images.describe(),
        "candidate": candidate(choice.mixed.images).name,
        "verdict": found[choice.use].verdict,
        "says": sentence(found[choice.use], metric),
        "chosen": choice.use,
        "tried_on_validation": {
            name: {"difference": _estimate(gap)} for name, gap in choice.tried.items()
        },
        "arms": {name: _figures(one) for name, one in found.items()},
    }


def _figures(outcome: Outcome) -> Object:
    content = _estimate(outcome.estimate)
    if outcome.gap is not None:
        content["difference"] = _estimate(outcome.gap)
    if outcome.adjusted is not None:
        content |= {"p_holm": outcome.adjusted, "detectable": outcome.detectable}
    return content


def _estimate(estimate: Estimate) -> Object:
    return {
        "value": estimate.value,
        "sd": None if np.isnan(estimate.sd) else estimate.sd,
        "interval": estimate.interval and [*estimate.interval],
        "patients": estimate.patients and [*estimate.patients],
        "seeds": {str(seed): value for seed, value in estimate.values.items()},
        **({"why": estimate.why} if estimate.why else {}),
    }
