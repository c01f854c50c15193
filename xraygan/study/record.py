"""What a study writes down: what it is asked for, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from xraygan._version import __version__
from xraygan.data.datamodule import ImageData
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
    chosen = {n: choice.use for n, choice in choices.items()}
    test = data.splits["test"]
    return {
        "xraygan": __version__,
        "command": command,
        "recommendation": recommendation(found, chosen, audit["verdict"]),
        "metric": design.options.metric,
        "source": source.describe(),
        "generated": {
            "images": len(pool.split),
            "classes": {
                name: int(count)
                for name, count in zip(
                    data.task.classes, pool.split.label_matrix.sum(axis=0), strict=True
                )
            },
        },
        "fingerprint": data.fingerprint,
        "trained_on": len(data.splits["train"]),
        "generator_trained_on": None if source.run is None else len(training.splits["train"]),
        "test": {"images": len(test), "patients": len(np.unique(test.patients))},
        "audit": {key: audit[key] for key in OF_AUDIT},
        "filters": [*design.options.filters],
        "steps": design.recipe.tables.run.steps,
        "batch_size": design.recipe.tables.run.batch_size,
        "real": [_result(n, choices[n], found[n], design.options.metric) for n in choices],
    }


def _result(real: int | None, choice: Choice, found: Mapping[str, Outcome], metric: str) -> Object:
    assert choice.mixed.images is not None and choice.before.images is not None
    described = {
        "real": real,
        "described": describe_real(real),
        "mixed": choice.mixed.images.describe(),
        "before": choice.before.images.describe(),
        "candidate": candidate(choice.mixed.images).name,
    }
    return result(described, choice.use, choice.tried, found, metric)


def result(
    described: Object,
    use: str,
    tried: Mapping[str, Estimate],
    found: Mapping[str, Outcome],
    metric: str,
) -> Object:
    """The entry of one number of real images in ``utility.json``.

    Args:
        described: its keys that follow from the design.
        use: the chosen arm.
        tried: the differences of the candidates on validation images.
        found: the outcomes of all arms on test images.
    """
    return {
        **described,
        "verdict": found[use].verdict,
        "says": sentence(found[use], metric),
        "chosen": use,
        "tried_on_validation": {
            name: {"difference": _estimate(gap)} for name, gap in tried.items()
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
