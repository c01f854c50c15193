"""The files of a sweep's results: its tables, its figure, and a record of what they are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xraygan.statistics.paired_bootstrap import Estimate
from xraygan.utils.atomic_files import write_together
from xraygan.utils.csv_cells import as_csv

from .file import Sweep
from .latex import latex
from .markdown import markdown
from .plan import Run
from .record import FILE, record
from .results import Differences, Results, baseline_differences, collect_results, published


def write_tables(sweep: Sweep, runs: Sequence[Run], out: Path, command: str) -> Path:
    """Write ``table.md``, ``table.csv``, ``table.tex`` and ``figure.png`` of the complete runs.

    ``sweep.json`` beside them records what they are made of, so that they can be made again from
    the folder alone.

    Args:
        command: the command that repeats the sweep, for the table's foot.

    Returns:
        The path of ``table.md``.
    """
    results = collect_results(sweep, runs)
    texts = {FILE: record(sweep, runs, command), **table_texts(sweep, results, runs, command)}
    write_together({out / name: text.encode() for name, text in texts.items()})
    from .figure import write_figure  # matplotlib takes seconds to import

    write_figure(sweep, results, out / "figure.png")
    return out / "table.md"


def table_texts(
    sweep: Sweep, results: Sequence[Results], runs: Sequence[Run], command: str
) -> dict[str, str]:
    """The content of the tables, by their file names.

    Args:
        results: one for each row, of :func:`xraygan.sweep.results.collect_results`.
    """
    gaps = baseline_differences(sweep, results)
    lines = {
        "table.md": markdown(sweep, results, gaps, runs, command),
        "table.tex": latex(sweep, results, gaps, command),
    }
    texts = {name: "\n".join(content) + "\n" for name, content in lines.items()}
    return {"table.csv": as_csv(_long(sweep, results, gaps)), **texts}


def _long(sweep: Sweep, results: Sequence[Results], gaps: Differences) -> pd.DataFrame:
    """One line for each row and metric, for further computations."""
    lines = []
    for result in results:
        label = result.row.label
        paper = published(sweep, label)
        protocol = result.protocols[0] if result.protocols else {}
        for metric in sweep.table.metrics:
            cell, gap = result.cells[metric], gaps.get(label, {}).get(metric)
            lines.append(
                {
                    "row": label,
                    "metric": metric,
                    **_columns("", cell.estimate),
                    "mean": cell.estimate.value,
                    "sd": cell.estimate.sd,
                    "seeds": len(cell.estimate.values),
                    "n": cell.n,
                    "paper": paper[metric],
                    "difference": gap.estimate.value if gap else math.nan,
                    **_columns("difference_", gap.estimate if gap else Estimate({})),
                    "difference_seeds": len(gap.estimate.values) if gap else 0,
                    "p": gap.estimate.p if gap else None,
                    "p_holm": gap.adjusted if gap else None,
                    "detectable": gap.detectable if gap else None,
                    "protocol": protocol.get("name", ""),
                    "split": protocol.get("split", ""),
                    "trained_on": protocol.get("trained_on", ""),
                    "reduced": sweep.reduced,
                }
            )
    return pd.DataFrame(lines).round(6)


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    """Both intervals of an estimate: over seeds and patients, and over patients alone."""
    low, high = estimate.interval or (math.nan, math.nan)
    patients_low, patients_high = estimate.patients or (math.nan, math.nan)
    return {
        f"{name}low": low,
        f"{name}high": high,
        f"{name}patients_low": patients_low,
        f"{name}patients_high": patients_high,
    }


__all__ = ["table_texts", "write_tables"]
