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
        UserError: the file cannot be read.
    """
    from rich.table import Table

    from xraygan.data.split_names import SPLIT_NAMES
    from xraygan.rundir.directory import RunDirectory
    from xraygan.rundir.file_schemas import cautions

    run_dir = RunDirectory(path.parent)
    run_dir.evaluation = path  # it may be of another split
    content = run_dir.read_evaluation()
    protocol = content.get("protocol", {})
    kind = SPLIT_NAMES.get(protocol.get("split", "test"), "test")
    title = f"{path.parent.name}: {kind} images"
    table = Table(title=title, title_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("n", justify="right")
    notes = []
    for name, measured in content.get("metrics", {}).items():
        value, interval = measured.get("value"), measured.get("interval")
        if value is None:
            notes.append(f"{name}: {measured.get('note')}")
        if not isinstance(value, int | float):
            continue  # only the report shows a matrix
        span = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        table.add_row(name, f"{value:.3f}", span, str(measured.get("n", "")))
    _print_table(table)
    for line in (*cautions(protocol), *notes):
        click.echo(line)


def print_images(summary: Mapping[str, Any]) -> None:
    """Print the numbers of images and patients of each split and class, and of images left out.

    Args:
        summary: of :meth:`xraygan.data.datamodule.ImageData.summary`.
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
    _print_table(table)
    for reason, count in summary["left_out"].items():
        click.echo(f"left out: {reason}: {count:,}")


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Not wrapped in a pipe, which rich would assume to be 80 columns wide.
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)
