"""The files of a sweep's results: table.md, table.csv and figure.png."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.statistics.paired_bootstrap import ONE_SEED, Estimate
from xraygan.statistics.seed_variance import LEVEL, MOST_SEEDS, POWER
from xraygan.utils.atomic_files import write_atomically
from xraygan.utils.csv_cells import write_table

from .file import Sweep
from .plan import Run
from .provenance import incomparable, provenance
from .results import (
    Cell,
    Difference,
    Differences,
    Results,
    baseline_differences,
    collect_results,
    published,
)

NONE = "n/a"
PATHS = ("data.root", "data.cache")  # keys that a reader of the table does not need


def write_tables(sweep: Sweep, runs: Sequence[Run], out: Path, command: str) -> Path:
    """Write ``table.md``, ``table.csv`` and ``figure.png`` of the complete runs.

    Args:
        command: the command that repeats the sweep, for the table's foot.

    Returns:
        The path of ``table.md``.
    """
    results = collect_results(sweep, runs)
    gaps = baseline_differences(sweep, results)
    write_table(out / "table.csv", _long(sweep, results, gaps))
    text = "\n".join(_markdown(sweep, results, gaps, runs, command)) + "\n"
    write_atomically(out / "table.md", text)
    from .figure import write_figure  # matplotlib takes seconds to import

    write_figure(sweep, results, out / "figure.png")
    return out / "table.md"


# -- table.csv -------------------------------------------------------------------------------------


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


# -- table.md --------------------------------------------------------------------------------------


def _markdown(
    sweep: Sweep, results: Sequence[Results], gaps: Differences, runs: Sequence[Run], command: str
) -> list[str]:
    lines = [f"# {sweep.title}", ""]
    if sweep.changed:
        changed = ", ".join(
            f"`{key} = {value}`" for key, value in sweep.changed.items() if key not in PATHS
        )
        title = "**Reduced settings, not a result:**" if sweep.reduced else "Settings changed:"
        lines += [f"{title} {changed}.", ""]
    lines += [*_figures(sweep, results), "", _protocol(sweep, results), "", *_notes(sweep, results)]
    lines += ["", *_differences(sweep, gaps)]
    undone = [run for run in runs if not run.done]
    if undone:
        lines += ["Not in the table:", ""]
        lines += [
            f"- {run.row.label}, seed {run.seed}: {run.failure or 'not run yet'}" for run in undone
        ]
        lines.append("")
    seeds = [seed for seed in sweep.seeds if any(seed in result.files for result in results)]
    done = [result.files[seed] for seed in seeds for result in results if seed in result.files]
    lines += [*incomparable(sweep.table.metrics, done), *provenance(done, seeds)]
    return [*lines, "```sh", command, "```"]


def _figures(sweep: Sweep, results: Sequence[Results]) -> list[str]:
    metrics = sweep.table.metrics
    if len(results) == 1:  # one row would be a very wide table
        only, paper = results[0], published(sweep, results[0].row.label)
        body = [[m, *_ours(only.cells[m]), _paper(paper[m])] for m in metrics]
        return _table(["", "ours", "95 % interval", "paper"], body)
    head = [""]
    for metric in metrics:
        head += [metric, "paper"] if sweep.table.paper else [metric]
    body = []
    for result in results:
        paper = published(sweep, result.row.label)
        cells = [result.row.label]
        for metric in metrics:
            ours, interval = _ours(result.cells[metric])
            cells.append(ours if interval == NONE else f"{ours} ({interval})")
            cells += [_paper(paper[metric])] if sweep.table.paper else []
        body.append(cells)
    return _table(head, body)


def _paper(figure: float) -> str:
    return NONE if math.isnan(figure) else f"{figure:g}"


def _ours(cell: Cell) -> tuple[str, str]:
    estimate = cell.estimate
    if not estimate.values:
        return NONE, NONE
    spread = "" if math.isnan(estimate.sd) else f" ± {format_figure(estimate.sd)}"
    ours = format_figure(estimate.value) + spread
    if cell.interval is None:
        return ours, NONE
    return ours, f"{format_figure(cell.interval[0])} to {format_figure(cell.interval[1])}"


def format_figure(value: float) -> str:
    """Three decimals, fewer for large figures."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _protocol(sweep: Sweep, results: Sequence[Results]) -> str:
    """Sentences about how the figures were measured."""
    seeds = ", ".join(map(str, sweep.seeds))
    cells = [(name, cell) for result in results for name, cell in result.cells.items()]
    without = [name for name, cell in cells if cell.interval and not cell.estimate.patients]
    if len(sweep.seeds) > 1:
        text = (
            f"Ours: mean ± standard deviation over seeds ({seeds}), and the 95 % interval of the "
            f"mean over training seeds and patients"
            f"{_in_brackets(without, 'over training seeds alone')}. "
        )
    else:
        text = (
            f"Ours: one seed ({seeds}), and the 95 % interval over patients alone"
            f"{_in_brackets(without, 'not over patients, but as its run measured it')}, which "
            "does not show what another seed would give. "
        )
    protocols = [protocol for result in results for protocol in result.protocols]
    keys = ("name", "dataset", "images", "split", "patients")
    named = {tuple(protocol.get(key) for key in keys) for protocol in protocols}
    for name, dataset, images, split, patients in sorted(named, key=str):
        kind = SPLIT_NAMES.get(split or "test", split)
        text += f"Protocol `{name}` on {dataset}: {images} {kind} images of {patients} patients. "
    trained = {
        result.row.label: result.protocols[0]["trained_on"]
        for result in results
        if result.protocols
    }
    if len({*trained.values()}) == 1:
        text += f"Classifiers learn from {next(iter(trained.values()))} images. "
    elif trained:
        listed = "; ".join(f"{label}: {images}" for label, images in trained.items())
        text += f"Classifiers learn from: {listed}. "
    if seconds := [s for result in results for s in result.seconds]:
        text += f"Training took {sum(seconds) / 60:.0f} min over {len(seconds)} runs."
    return text.rstrip()


def _in_brackets(metrics: Sequence[str], interval: str) -> str:
    """A remark on the interval of some metrics; empty without metrics."""
    return f" (of {', '.join(dict.fromkeys(metrics))}: {interval})" if metrics else ""


def _notes(sweep: Sweep, results: Sequence[Results]) -> list[str]:
    """The notes that all rows have in common, and the exceptions of single rows."""
    lines = []
    for metric in sweep.table.metrics:
        notes = frozenset().union(*(result.cells[metric].notes for result in results))
        if len(notes) == 1 and (note := next(iter(notes))):
            lines.append(
                f"- {metric}: {note}, n = {max(result.cells[metric].n for result in results)}"
            )
    for result in results:
        estimates = {
            name: cell.estimate for name, cell in result.cells.items() if cell.estimate.values
        }
        lines += _exceptions(sweep, result.row.label, estimates)
    return lines


def _exceptions(
    sweep: Sweep, label: str, estimates: Mapping[str, Estimate], lacks: str = ""
) -> list[str]:
    """The metrics of a row that lack seeds or an interval, as Markdown lines."""
    exceptions: dict[str, list[str]] = {}
    for name, estimate in estimates.items():
        absent = [str(seed) for seed in sweep.seeds if seed not in estimate.values]
        if absent:
            exceptions.setdefault(f"without seed {', '.join(absent)}{lacks}", []).append(name)
        if estimate.why and len(sweep.seeds) > 1:
            alone = estimate.why == ONE_SEED and estimate.patients is not None
            interval = "its interval is over patients alone" if alone else "no interval"
            exceptions.setdefault(f"{interval}: {estimate.why}", []).append(name)
    lines = []
    for exception, names in exceptions.items():
        metrics = f" ({', '.join(names)})" if len(names) < len(estimates) else ""
        lines.append(f"- {label}{metrics}: {exception}")
    return lines


# -- differences -----------------------------------------------------------------------------------


def _differences(sweep: Sweep, gaps: Differences) -> list[str]:
    """Each row minus the baseline, the tests of the primary metric, and the power."""
    if not any(gaps.values()):
        return []
    primary, base = sweep.table.primary or sweep.table.metrics[0], sweep.table.baseline
    every = [gap for cells in gaps.values() for gap in cells.values()]
    tested = [cells[primary] for cells in gaps.values()
              if primary in cells and cells[primary].adjusted is not None]  # fmt: skip
    others = [metric for metric in sweep.table.metrics if metric != primary]
    if all(len(gap.estimate.values) == 1 for gap in every):
        text = (
            f"Difference from {base}, with its 95 % interval over patients alone. One pair of "
            "runs cannot separate the effect of the recipe from that of the seed: with other "
            "seeds, either may be the better one. Give the sweep three seeds or more."
        )
    else:
        without = [name for cells in gaps.values() for name, gap in cells.items()
                   if gap.estimate.interval and not gap.estimate.patients]  # fmt: skip
        text = (
            f"Difference from {base}, paired by seed, with its 95 % interval over training seeds "
            f"and patients{_in_brackets(without, 'over training seeds alone')}. "
            f"`{primary}` is the primary metric: "
        )
        if tested:
            text += (
                f"p is adjusted for {len(tested)} comparison{'s' * (len(tested) > 1)} (Holm), "
                f"and * marks p below {LEVEL:g}."
            )
        else:
            text += "none of its differences can be tested, so none is known to differ from 0."
        if others:
            text += " The other metrics are descriptive; their intervals are not adjusted."
    columns: list[tuple[str, str, Callable[[Difference | None], str]]] = [(primary, primary, _gap)]
    if tested:
        columns += [("p", primary, _p), (f"{primary}, patients alone", primary, _alone)]
    columns += [(metric, metric, _gap) for metric in others]
    head = ["", *(title for title, _, _ in columns)]
    body = [
        [label, *(show(cells.get(metric)) for _, metric, show in columns)]
        for label, cells in gaps.items()
    ]
    lines = [text, "", *_table(head, body), ""]
    for label, cells in gaps.items():
        shown = {name: gap.estimate for name, gap in cells.items()}
        lines += _exceptions(sweep, label, shown, ", which one of the two rows lacks")
    return [*lines, *[""][: bool(lines[-1])], *_power(sweep, gaps, primary)]


def _power(sweep: Sweep, gaps: Differences, primary: str) -> list[str]:
    """The differences that the sweep could have found, and the seeds needed to find one."""
    target = sweep.table.difference
    lines = []
    for label, cells in gaps.items():
        gap = cells.get(primary)
        if gap is None or gap.detectable is None:
            continue
        if gap.needed is None:
            more = f"no number of seeds up to {MOST_SEEDS} would find {target:g} on these images"
        elif gap.needed <= len(gap.estimate.values):
            more = f"{len(gap.estimate.values)} seeds are enough for {target:g}"
        else:
            more = f"{target:g} would take {gap.needed} seeds"
        lines.append(f"- {label}: {format_figure(gap.detectable)}; {more}")
    if not lines:
        return []
    text = (
        f"The smallest difference in `{primary}` that this sweep would have found with a power of "
        f"{100 * POWER:.0f} %, if seeds and patients vary as they did in it:"
    )
    return [text, "", *lines, ""]


def _gap(gap: Difference | None) -> str:
    if gap is None:
        return NONE
    star = "\\*" if gap.significant else ""
    return f"{gap.estimate.value:+.3f}{star}{_ends(gap.estimate.interval or gap.estimate.patients)}"


def _alone(gap: Difference | None) -> str:
    patients = gap.estimate.patients if gap else None
    return NONE if patients is None else f"{patients[0]:+.3f} to {patients[1]:+.3f}"


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:+.3f} to {interval[1]:+.3f})"


def _p(gap: Difference | None) -> str:
    if gap is None or gap.adjusted is None:
        return NONE
    return "<0.001" if gap.adjusted < 0.001 else f"{gap.adjusted:.3f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


__all__ = ["write_tables"]
