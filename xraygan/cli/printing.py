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
    from xraygan.data.split_names import SPLIT_NAMES
    from xraygan.rundir.directory import RunDirectory
    from xraygan.rundir.file_schemas import cautions
    from xraygan.utils.naming import subgroup_figure

    run_dir = RunDirectory(path.parent)
    run_dir.evaluation = path  # it may be of another split
    content = run_dir.read_evaluation()
    protocol = content.get("protocol", {})
    kind = f"{SPLIT_NAMES.get(protocol.get('split', 'test'), 'test')} images"
    if external := protocol.get("external"):
        kind = f"external test set {external.get('name')}"
    table = _metric_table(f"{path.parent.name}: {kind}")
    notes = []
    metrics = content.get("metrics", {})
    whole = {name: one for name, one in metrics.items() if not subgroup_figure(name)}
    for name, measured in whole.items():
        value, interval = measured.get("value"), measured.get("interval")
        if value is None:
            notes.append(f"{name}: {measured.get('note')}")
        if not isinstance(value, int | float):
            continue  # only the report shows a matrix
        table.add_row(name, f"{value:.3f}", _span(interval), str(measured.get("n", "")))
    _print_table(table)
    if groups := len(metrics) - len(whole):
        notes.append(f"{groups:,} figures of subgroups are in {path.name} and in report.html")
    for line in (*cautions(protocol), *notes):
        click.echo(line)


def print_folders(content: Mapping[str, Any]) -> None:
    """Print the figures of two folders as a table, with their control in the last columns.

    Args:
        content: of :func:`xraygan.session.folders.evaluate_folders`.
    """
    folders, control = content["protocol"]["folders"], content["control"]
    counts = {name: folders[name]["images"] for name in ("images", "reference")}
    count, small = control["images"], (control.get("generated", {}), control.get("real", {}))
    table = _metric_table(
        f"{counts['images']:,} generated images, {counts['reference']:,} reference images"
    )
    if count:
        for name in ("generated", "real"):
            table.add_column(f"{name}, {count:,} against {count:,}", justify="right")
    notes = [] if count else [control["note"]]
    for name, measured in content["metrics"].items():
        value = measured["value"]
        if value is None:
            notes.append(f"{name}: {measured['note']}")
        if not isinstance(value, int | float):
            continue
        others = [_number(values.get(name, {}).get("value")) for values in small if values]
        table.add_row(
            name, _number(value), _span(measured["interval"]), str(measured["n"]), *others
        )
    _print_table(table)
    if count:
        click.echo(
            f"The last two columns compare {count:,} generated images, and {count:,} other real "
            f"images, with the same {count:,} reference images: the last is the figures' scale"
        )
    for name, folder in folders.items():
        notes += [f"--{name}: left out: {r}: {n:,}" for r, n in folder["left_out"].items()]
    for line in notes:
        click.echo(line)


def _metric_table(title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("n", justify="right")
    return table


def _span(interval: Any) -> str:
    if not interval:
        return ""
    if 0 < max(map(abs, interval)) < 0.01:
        return " to ".join(map(_number, interval))
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _number(value: Any) -> str:
    """A figure with three decimals, or two digits if it is small; KID in pixels is below 0.001."""
    if not isinstance(value, int | float):
        return ""
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


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
