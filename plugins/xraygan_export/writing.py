"""Write all files of an export, or none."""

from __future__ import annotations

import importlib
from pathlib import Path

from xraygan import UserError
from xraygan.plugin_api import RunDirectory, Session, require_empty_folder, write_folder

from .card import card
from .models import files, models


def refuse_early(formats: tuple[str, ...], out: Path) -> None:
    """Check the output folder and the packages before the data is prepared.

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
    """Write the networks in each format, and their model card.

    Returns:
        The paths of the files.

    Raises:
        UserError: a network cannot be traced, or the folder cannot be written.
    """
    networks = models(session)
    contents = {name: data for model in networks for name, data in files(model, formats)}
    text = card(session, run_dir, step, networks, list(contents))
    return write_folder(out, {**contents, "README.md": text.encode()})
