"""Schemas of the files of a run directory, for the keys that the commands read.

Other keys may hold anything, and most of the keys that are named here may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.errors import clipped, shown

Count = Annotated[int, Field(ge=0)]


class Schema(BaseModel):
    """A table or object whose other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


class RunTable(Schema):
    name: str | None = None
    seed: Count | None = None
    steps: Count | None = None


class DataTable(Schema):
    plugin: str | None = None
    image_size: Annotated[int, Field(ge=1)] | None = None
    label_policy: str | None = None


class PartTable(Schema):
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    trains: list[str] = []


class RecipeFile(Schema):
    """``recipe.toml``."""

    run: RunTable = RunTable()
    data: DataTable = DataTable()
    generator: PartTable = PartTable()
    discriminator: PartTable = PartTable()
    classifier: PartTable = PartTable()
    labeler: PartTable = PartTable()
    scores: dict[str, PartTable] = {}
    extractors: dict[str, dict[str, Any]] = {}


class DatasetSummary(Schema):
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


class Resumed(Schema):
    """An entry of ``resumed``; ``changed`` holds each key's value before and after."""

    step: Count | None = None
    changed: dict[str, dict[str, Any]] = {}


class EnvironmentFile(Schema):
    """``environment.json``."""

    dataset: DatasetSummary = DatasetSummary()
    command: list[str] = []
    files: dict[str, str] = {}
    resumed: list[Resumed] = []
    used: list[Any] = []
    finished: dict[str, Any] | None = None


class Line(Schema):
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


class ExternalTable(Schema):
    name: str = ""
    dataset: str = ""
    classes: dict[str, str] = {}
    lacking: list[str] = []
    left_out: dict[str, Count] = {}
    checked: bool = True


class EvaluationProtocol(Schema):
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
    external: ExternalTable | None = None


class MeasuredMetric(Schema):
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    n: Count | None = None
    note: str | None = None
    options: dict[str, Any] | None = None


class EvaluationFile(Schema):
    """``evaluation.json``."""

    step: Count | None = None
    protocol: EvaluationProtocol = EvaluationProtocol()
    metrics: dict[str, MeasuredMetric] = {}
    failed: dict[str, str] = {}
    sha256: dict[str, str] = {}


class AuditProtocol(Schema):
    generated: Count
    training_images: Count
    held_out_images: Count


class AuditFile(Schema):
    """``audit.json``; a model card reports all of these keys."""

    step: Count
    says: str
    verdict: str
    protocol: AuditProtocol


def cautions(protocol: Mapping[str, Any]) -> list[str]:
    """Sentences that warn a reader about how the figures of an evaluation were measured."""
    sentences = _external(protocol.get("external") or {})
    if unfinished := protocol.get("unfinished"):
        sentences.append(f"Measured before the run was finished: {unfinished}.")
    if differs := protocol.get("data_differs"):
        changes = "; ".join(differs)
        sentences.append(f"Measured on other data than the run was trained on: {changes}.")
    elif protocol.get("trained_on_fingerprint"):  # of former versions
        sentences.append(
            "Measured on other data than the run was trained on (their fingerprints differ), so "
            "training images may be among the measured images."
        )
    if chosen_on := protocol.get("chosen_on"):
        same = chosen_on == protocol.get("split", "test")
        end = ", the same ones, so these figures are too good." if same else "."
        kind = SPLIT_NAMES.get(chosen_on, chosen_on)
        sentences.append(f"The checkpoint was chosen by its figures on the {kind} images{end}")
    if changed := protocol.get("changed"):  # by xraygan evaluate --set
        keys = ", ".join(f"{key} = {value}" for key, value in changed.items())
        sentences.append(f"Measured with other options than the run's recipe: {keys}.")
    return sentences


def _external(table: Mapping[str, Any]) -> list[str]:
    """Sentences about the images of an external test set and their classes."""
    if not table:
        return []
    sentences = []
    other = [f"{theirs} as {ours}" for theirs, ours in table.get("classes", {}).items()]
    sentences.append(f"An external test set of {table.get('dataset')}: {', '.join(other)}.")
    if lacking := table.get("lacking"):
        names = ", ".join(lacking)
        sentences.append(f"No figures of {names}: the external data do not label it.")
    for reason, images in table.get("left_out", {}).items():
        sentences.append(f"Left out: {reason}: {images:,}.")
    if not table.get("checked", True):
        sentences.append(
            "It is not known whether training images are among them: the run did not record its "
            "images."
        )
    return sentences


def validated(content: Any, schema: type[BaseModel]) -> Any:
    """The content itself, if it fits a schema.

    Raises:
        ValueError: it does not; the message names the first wrong key and why.
    """
    try:
        schema.model_validate(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    return content


def first_fault(error: ValidationError) -> str:
    """A message about the first wrong key: its name, what was expected and what was found."""
    first = error.errors(include_url=False)[0]
    key = clipped(".".join(map(str, first["loc"])))
    message = clipped(first["msg"].removeprefix("Value error, "), 400)
    message = message.replace("Input should be", "expected")
    if first["type"] != "missing":
        message += f", found {_value_or_type(first['input'])}"
    return f"{key}: {message}" if key else message


def _value_or_type(value: object) -> str:
    scalar = isinstance(value, str | int | float | None)
    return shown(value, 43) if scalar else type(value).__name__
