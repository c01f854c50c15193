"""What the files of a run directory look like, as far as those who read a run rely on it.

Keys that nobody reads may hold anything; of those named here, each may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.errors import clipped, shown

Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    """A table or object whose other keys are not looked at."""

    model_config = ConfigDict(extra="ignore", strict=True)


class RunWords(Shape):
    name: str | None = None
    seed: Count | None = None
    steps: Count | None = None


class DataWords(Shape):
    plugin: str | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    label_policy: str | None = None


class PartWords(Shape):
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    trains: list[str] = []


class RecipeFile(Shape):
    """``recipe.toml``."""

    run: RunWords = RunWords()
    data: DataWords = DataWords()
    generator: PartWords = PartWords()
    discriminator: PartWords = PartWords()
    classifier: PartWords = PartWords()
    labeler: PartWords = PartWords()
    scores: dict[str, PartWords] = {}
    extractors: dict[str, dict[str, Any]] = {}


class Dataset(Shape):
    plugin: str | None = None
    fingerprint: str | None = None
    metadata_fingerprint: str | None = None
    images: dict[str, Count] = {}
    patients: dict[str, Count] = {}
    classes: dict[str, dict[str, Count]] = {}
    skipped: list[Any] | dict[str, Any] | None = None
    left_out: dict[str, Count] = {}
    notes: list[str] = []
    metadata: dict[str, Count] = {}


class EnvironmentFile(Shape):
    """``environment.json``."""

    dataset: Dataset = Dataset()
    command: list[str] = []
    files: dict[str, str] = {}
    resumed: list[Any] = []
    used: list[Any] = []
    finished: dict[str, Any] | None = None


class Line(Shape):
    """A line of ``metrics.jsonl``."""

    step: Count
    progress: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    terms: dict[str, float | None] = {}
    weighted_total: float | None = None
    records: dict[str, float | None] = {}
    evaluation: dict[str, float | None] = {}
    split: str = "test"
    images_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Protocol(Shape):
    split: str = ""
    images: Count | None = None
    patients: Count | None = None
    generated: Count | None = None
    bootstrap: Count | None = None
    unit: str = ""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    changed: dict[str, Any] = {}
    trained_on_fingerprint: str | None = None
    images_fingerprint: str | None = None
    chosen_on: str | None = None
    data_differs: list[str] = []
    unfinished: str | None = None


class Measurement(Shape):
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    n: Count | None = None
    note: str | None = None


class EvaluationFile(Shape):
    """``evaluation.json``."""

    step: Count | None = None
    protocol: Protocol = Protocol()
    metrics: dict[str, Measurement] = {}
    failed: dict[str, str] = {}


class AuditProtocol(Shape):
    generated: Count
    training_images: Count
    held_out_images: Count


class AuditFile(Shape):
    """``audit.json``; a model card tells of all of it."""

    step: Count
    says: str
    verdict: str
    protocol: AuditProtocol


def cautions(protocol: Mapping[str, Any]) -> list[str]:
    """What a reader of an evaluation's figures must know of how they came about, in sentences."""
    said = []
    if unfinished := protocol.get("unfinished"):
        said.append(f"Measured before the run was finished: {unfinished}.")
    if differs := protocol.get("data_differs"):
        said.append(f"Measured on other data than the run was trained on: {'; '.join(differs)}.")
    elif protocol.get("trained_on_fingerprint"):  # of former versions
        said.append(
            "Measured on other data than the run was trained on (their fingerprints differ), so "
            "nobody can tell whether training images are among the images."
        )
    if chosen_on := protocol.get("chosen_on"):
        same = chosen_on == protocol.get("split", "test")
        end = ", the same ones, so these figures are too good." if same else "."
        kind = SPLIT_NAMES.get(chosen_on, chosen_on)
        said.append(f"The checkpoint was chosen by its figures on the {kind} images{end}")
    if changed := protocol.get("changed"):  # by xraygan evaluate --set
        keys = ", ".join(f"{key} = {value}" for key, value in changed.items())
        said.append(f"Not measured as the run's recipe says: {keys}.")
    return said


def check(content: Any, shape: type[Shape]) -> Any:
    """The content itself, if it has the shape.

    Raises:
        ValueError: the first key that is not as it should be, and why.
    """
    try:
        shape.model_validate(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    return content


def first_fault(error: ValidationError) -> str:
    """The first key that is not as it should be, what was expected and what it is."""
    first = error.errors(include_url=False)[0]
    place = clipped(".".join(map(str, first["loc"])))
    said = clipped(first["msg"].removeprefix("Value error, "), 400)
    said = said.replace("Input should be", "expected")
    found = "" if first["type"] == "missing" else f", found {_shown(first['input'])}"
    return f"{place}: {said}{found}" if place else f"{said}{found}"


def _shown(value: object) -> str:
    plain = isinstance(value, str | int | float | None)
    return shown(value, 43) if plain else type(value).__name__
