"""A sweep's results written down: table.md, table.csv and figure.png."""

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
from .results import Cell, Difference, Differences, Results, differences, gather, published

NONE = "n/a"
PATHS = ("data.root", "data.cache")  # of no concern to a reader of the table


def write_tables(sweep: Sweep, runs: Sequence[Run], out: Path, command: str) -> Path:
    """Write ``table.md``, ``table.csv`` and ``figure.png`` of the runs that are done.

    Args:
        command: what repeats the sweep, for the table's foot.

    Returns:
        The path of ``table.md``.
    """
    results = gather(sweep, runs)
    gaps = differences(sweep, results)
    write_table(out / "table.csv", _long(sweep, results, gaps))
    text = "\n".join(_markdown(sweep, results, gaps, runs, command)) + "\n"
    write_atomically(out / "table.md", text)
    from .figure import write_figure  # matplotlib takes seconds to import

    write_figure(sweep, results, out / "figure.png")
    return out / "table.md"


# -- table.csv -------------------------------------------------------------------------------------


def _long(sweep: Sweep, results: Sequence[Results], gaps: Differences) -> pd.DataFrame:
    """One line a row and metric, for those who go on computing."""
    lines = []
    for one in results:
        label = one.row.label
        paper = published(sweep, label)
        protocol = one.protocols[0] if one.protocols else {}
        for metric in sweep.table.metrics:
            cell, gap = one.cells[metric], gaps.get(label, {}).get(metric)
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
        says = "**Reduced settings, not a result:**" if sweep.reduced else "Settings changed:"
        lines += [f"{says} {changed}.", ""]
    lines += [*_figures(sweep, results), "", _protocol(sweep, results), "", *_notes(sweep, results)]
    lines += ["", *_differences(sweep, gaps)]
    undone = [run for run in runs if not run.done]
    if undone:
        lines += ["Not in the table:", ""]
        lines += [
            f"- {run.row.label}, seed {run.seed}: {run.failure or 'not run yet'}" for run in undone
        ]
        lines.append("")
    seeds = [seed for seed in sweep.seeds if any(seed in one.files for one in results)]
    done = [one.files[seed] for seed in seeds for one in results if seed in one.files]
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
    for one in results:
        paper = published(sweep, one.row.label)
        cells = [one.row.label]
        for metric in metrics:
            ours, interval = _ours(one.cells[metric])
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
    spread = "" if math.isnan(estimate.sd) else f" ± {number(estimate.sd)}"
    ours = number(estimate.value) + spread
    if cell.interval is None:
        return ours, NONE
    return ours, f"{number(cell.interval[0])} to {number(cell.interval[1])}"


def number(value: float) -> str:
    """Three decimals, fewer for large figures."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _protocol(sweep: Sweep, results: Sequence[Results]) -> str:
    """How the figures came about, in sentences."""
    seeds = ", ".join(map(str, sweep.seeds))
    cells = [(name, cell) for one in results for name, cell in one.cells.items()]
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
            "says nothing of what another seed would give. "
        )
    found = [p for one in results for p in one.protocols]
    keys = ("name", "dataset", "images", "split", "patients")
    named = {tuple(p.get(key) for key in keys) for p in found}
    for name, dataset, images, split, patients in sorted(named, key=str):
        kind = SPLIT_NAMES.get(split or "test", split)
        text += f"Protocol `{name}` on {dataset}: {images} {kind} images of {patients} patients. "
    trained = {one.row.label: one.protocols[0]["trained_on"] for one in results if one.protocols}
    if len({*trained.values()}) == 1:
        text += f"Classifiers learn from {next(iter(trained.values()))} images. "
    elif trained:
        each = "; ".join(f"{label}: {what}" for label, what in trained.items())
        text += f"Classifiers learn from: {each}. "
    if seconds := [s for one in results for s in one.seconds]:
        text += f"Training took {sum(seconds) / 60:.0f} min over {len(seconds)} runs."
    return text.rstrip()


def _in_brackets(metrics: Sequence[str], what: str) -> str:
    """What the interval of these metrics is, if there are any."""
    return f" (of {', '.join(dict.fromkeys(metrics))}: {what})" if metrics else ""


def _notes(sweep: Sweep, results: Sequence[Results]) -> list[str]:
    """What every row says alike of how a metric was measured."""
    lines = []
    for metric in sweep.table.metrics:
        notes = frozenset().union(*(one.cells[metric].notes for one in results))
        if len(notes) == 1 and (note := next(iter(notes))):
            lines.append(f"- {metric}: {note}, n = {max(one.cells[metric].n for one in results)}")
    for one in results:
        estimates = {
            name: cell.estimate for name, cell in one.cells.items() if cell.estimate.values
        }
        lines += _exceptions(sweep, one.row.label, estimates)
    return lines


def _exceptions(
    sweep: Sweep, label: str, estimates: Mapping[str, Estimate], lacks: str = ""
) -> list[str]:
    """Where a row's figures are of fewer seeds, or have no interval, as Markdown lines."""
    found: dict[str, list[str]] = {}
    for name, estimate in estimates.items():
        lacking = [str(seed) for seed in sweep.seeds if seed not in estimate.values]
        if lacking:
            found.setdefault(f"without seed {', '.join(lacking)}{lacks}", []).append(name)
        if estimate.why and len(sweep.seeds) > 1:
            alone = estimate.why == ONE_SEED and estimate.patients is not None
            which = "its interval is over patients alone" if alone else "no interval"
            found.setdefault(f"{which}, for {estimate.why}", []).append(name)
    lines = []
    for what, names in found.items():
        of = f" ({', '.join(names)})" if len(names) < len(estimates) else ""
        lines.append(f"- {label}{of}: {what}")
    return lines


# -- differences -----------------------------------------------------------------------------------


def _differences(sweep: Sweep, gaps: Differences) -> list[str]:
    """Each row less the baseline, what may be concluded, and what could have been found."""
    if not any(gaps.values()):
        return []
    primary, base = sweep.table.primary or sweep.table.metrics[0], sweep.table.baseline
    every = [gap for cells in gaps.values() for gap in cells.values()]
    judged = [cells[primary] for cells in gaps.values()
              if primary in cells and cells[primary].adjusted is not None]  # fmt: skip
    others = [metric for metric in sweep.table.metrics if metric != primary]
    if all(len(gap.estimate.values) == 1 for gap in every):
        says = (
            f"Difference from {base}, with its 95 % interval over patients alone. One pair of "
            "runs cannot tell what the recipe does from what its seed does: with other seeds, "
            "either may be the better one. Give the sweep three seeds or more."
        )
    else:
        without = [name for cells in gaps.values() for name, gap in cells.items()
                   if gap.estimate.interval and not gap.estimate.patients]  # fmt: skip
        says = (
            f"Difference from {base}, paired by seed, with its 95 % interval over training seeds "
            f"and patients{_in_brackets(without, 'over training seeds alone')}. "
            f"`{primary}` is the primary metric: "
        )
        if judged:
            says += (
                f"p is adjusted for {len(judged)} comparison{'s' * (len(judged) > 1)} (Holm), "
                f"and * marks p below {LEVEL:g}."
            )
        else:
            says += "none of its differences can be tested, so nothing is told from 0."
        if others:
            says += " The other metrics describe; their intervals are not adjusted."
    columns: list[tuple[str, str, Callable[[Difference | None], str]]] = [(primary, primary, _gap)]
    if judged:
        columns += [("p", primary, _p), (f"{primary}, patients alone", primary, _alone)]
    columns += [(metric, metric, _gap) for metric in others]
    head = ["", *(title for title, _, _ in columns)]
    body = [
        [label, *(show(cells.get(metric)) for _, metric, show in columns)]
        for label, cells in gaps.items()
    ]
    lines = [says, "", *_table(head, body), ""]
    for label, cells in gaps.items():
        shown = {name: gap.estimate for name, gap in cells.items()}
        lines += _exceptions(sweep, label, shown, ", which one of the two rows lacks")
    return [*lines, *[""][: bool(lines[-1])], *_power(sweep, gaps, primary)]


def _power(sweep: Sweep, gaps: Differences, primary: str) -> list[str]:
    """What differences the sweep could have found, and with how many seeds it would find one."""
    asked = sweep.table.difference
    lines = []
    for label, cells in gaps.items():
        gap = cells.get(primary)
        if gap is None or gap.detectable is None:
            continue
        if gap.needed is None:
            more = f"no number of seeds up to {MOST_SEEDS} would find {asked:g} on these images"
        elif gap.needed <= len(gap.estimate.values):
            more = f"{len(gap.estimate.values)} seeds are enough for {asked:g}"
        else:
            more = f"{asked:g} would take {gap.needed} seeds"
        lines.append(f"- {label}: {number(gap.detectable)}; {more}")
    if not lines:
        return []
    says = (
        f"The smallest difference in `{primary}` that this sweep would have found with a power of "
        f"{100 * POWER:.0f} %, if seeds and patients vary as they did here:"
    )
    return [says, "", *lines, ""]


def _gap(gap: Difference | None) -> str:
    if gap is None:
        return NONE
    star = "\\*" if gap.found else ""
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


__all__ = ["number", "write_tables"]
