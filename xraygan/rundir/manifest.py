"""The manifest of a checkpoint, ``manifest.json``: its step and the sha256 of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from xraygan.errors import shown
from xraygan.utils.naming import label_fault
from xraygan.utils.parsing import parse_json, read_text, sha256

from .file_schemas import first_fault

#: a file of a checkpoint: of a network, its average, its optimizer, or another part's buffers
_NAME = "[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
_FILE = rf"^({_NAME}(\.average|\.optimizer)?|(scores\.)?{_NAME}\.state)\.safetensors$"


def _label(name: str) -> str:
    if fault := label_fault(name):
        raise ValueError(f"the name {shown(name)} {fault}")
    return name


Label = Annotated[str, AfterValidator(_label)]


class Gathered(BaseModel):
    """Sums and counts of each value since the last line of the log, and of how many steps."""

    # Values that a part recorded may be NaN; terms may not.
    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")

    sums: dict[Label, float] = {}
    counts: dict[Label, Annotated[int, Field(ge=1)]] = {}
    steps: Annotated[int, Field(ge=0)] = 0
    skipped: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_keys(self) -> Gathered:
        if self.sums.keys() != self.counts.keys():
            raise ValueError("sums and counts name different values")
        return self


class Manifest(BaseModel):
    """The content of ``manifest.json``.

    Attributes:
        step: steps done.
        files: the sha256 of each file in the same folder.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    step: Annotated[int, Field(ge=0)]
    log: Gathered = Gathered()
    files: dict[Annotated[str, Field(pattern=_FILE)], str]


def parse_manifest(path: Path) -> Manifest:
    """The manifest in a checkpoint's folder.

    Raises:
        ValueError: it is not a manifest; the message names the key.
        OSError: it cannot be read.
    """
    try:
        return Manifest.model_validate(parse_json(read_text(path / "manifest.json")))
    except ValidationError as error:
        raise ValueError(f"manifest.json: {first_fault(error)}") from None
    except ValueError as error:
        raise ValueError(f"manifest.json: {error}") from None


def read_manifest(path: Path, name: str = "") -> Manifest:
    """The manifest of a checkpoint whose files match it.

    Args:
        name: the name that its folder should have, if it has another one.

    Raises:
        ValueError: it is damaged; the message names the file or the key, and why.
        OSError: a file is missing, or cannot be read.
    """
    manifest = parse_manifest(path)
    if (expected := f"step-{manifest.step:08d}") != (name or path.name):
        raise ValueError(f"manifest.json: step: it is the manifest of {expected}")
    for file, digest in manifest.files.items():
        if not (path / file).is_file():
            raise ValueError(f"{file} is missing or not a regular file")
        if sha256(path / file) != digest:
            raise ValueError(f"{file} does not match its sha256 in manifest.json")
    return manifest
