"""Tables that several commands print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


def print_metrics(path: Path) -> None:
    """Print the metrics of an ``evaluation.json`` as a table.

    Raises:
        UserError: it cannot be read.
    """
    from rich.table import Table

    from xraygan.data.split_names import SPLIT_NAMES
    from xraygan.rundir.directory import RunDirectory
    from xraygan.rundir.file_schemas import cautions

    place = RunDirectory(path.parent)
    place.evaluation = path  # of another split, maybe
    content = place.read_evaluation()
    about = content.get("protocol", {})
    kind = SPLIT_NAMES.get(about.get("split", "test"), "test")
    title = f"{path.parent.name}: {kind} images"
    table = Table(title=title, title_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("n", justify="right")
    notes = []
    for name, found in content.get("metrics", {}).items():
        value, interval = found.get("value"), found.get("interval")
        if value is None:
            notes.append(f"{name}: {found.get('note')}")
        if not isinstance(value, int | float):
            continue  # a matrix is for the report
        span = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        table.add_row(name, f"{value:.3f}", span, str(found.get("n", "")))
    _print(table)
    for line in (*cautions(about), *notes):
        click.echo(line)


def print_images(summary: Mapping[str, Any]) -> None:
    """Print how many images and patients each split and class has, and what is left out and why.

    Args:
        summary: see :meth:`xraygan.data.datamodule.ImageData.summary`.
    """
    from rich.table import Table

    splits = [name for name, images in summary["images"].items() if images]
    table = Table("", title_justify="left")
    for name in splits:
        table.add_column(name, justify="right")
    for row in ("images", "patients"):
        table.add_row(row, *(f"{summary[row][name]:,}" for name in splits))
    table.add_section()
    for label in summary["classes"]["train"]:
        table.add_row(label, *(f"{summary['classes'][name][label]:,}" for name in splits))
    _print(table)
    for reason, count in summary["left_out"].items():
        click.echo(f"left out: {reason}: {count:,}")


def _print(table: Any) -> None:
    from rich.console import Console

    # In a pipe nothing is wrapped: rich would take it for 80 columns wide.
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)
