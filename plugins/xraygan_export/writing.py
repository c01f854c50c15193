"""The files of an export, together or not at all."""

from __future__ import annotations

import importlib
from pathlib import Path

from xraygan import UserError
from xraygan.plugin_api import RunDirectory, Session, require_empty_folder, write_folder

from .card import card
from .models import files, models


def refuse_early(formats: tuple[str, ...], out: Path) -> None:
    """Stop before the data is prepared where nothing can be written.

    Raises:
        UserError: the folder is not empty, or a package is missing.
    """
    require_empty_folder(out)
    if "onnx" in formats:
        for package in ("onnx", "onnxscript"):
            try:
                importlib.import_module(package)
            except ImportError:
                raise UserError(
                    f"--format onnx: the package {package} is not installed: "
                    "pip install 'xraygan[onnx]', or --format torch --format safetensors"
                ) from None


def write(
    session: Session, run_dir: RunDirectory, step: int, formats: tuple[str, ...], out: Path
) -> list[Path]:
    """Write the networks in each format, and their card.

    Returns:
        The files.

    Raises:
        UserError: a network cannot be traced, or the folder cannot be written.
    """
    found = models(session)
    contents = {name: data for model in found for name, data in files(model, formats)}
    text = card(session, run_dir, step, found, list(contents))
    return write_folder(out, {**contents, "README.md": text.encode()})
