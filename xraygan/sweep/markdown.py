"""``table.md``: the tables of a sweep, what was measured, and the origin of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xraygan.data.split_names import SPLIT_NAMES
from xraygan.statistics.paired_bootstrap import ONE_SEED, Estimate
from xraygan.statistics.seed_variance import LEVEL, MOST_SEEDS, POWER

from .cells import (
    REDUCED,
    Cells,
    differences_table,
    figures_table,
    format_figure,
    primary_metric,
    tested,
)
from .file import Sweep
from .plan import Run
from .provenance import incomparable, provenance
from .results import Differences, Results

PATHS = ("data.root", "data.cache")  # keys that a reader of the table does not need


def markdown(
    sweep: Sweep, results: Sequence[Results], gaps: Differences, runs: Sequence[Run], command: str
) -> list[str]:
    """The lines of ``table.md``.

    Args:
        command: the command that repeats the sweep.
    """
    lines = [f"# {sweep.title}", ""]
    if sweep.changed:
        changed = ", ".join(
            f"`{key} = {value}`" for key, value in sweep.changed.items() if key not in PATHS
        )
        title = f"**{REDUCED}:**" if sweep.reduced else "Settings changed:"
        lines += [f"{title} {changed}.", ""]
    lines += [
        *_table(figures_table(sweep, results)),
        "",
        _protocol(sweep, results),
        "",
        *_notes(sweep, results),
    ]
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
        result.row.label: result.protocols[0].get("trained_on") or "unknown"
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
    primary, base = primary_metric(sweep), sweep.table.baseline
    every = [gap for cells in gaps.values() for gap in cells.values()]
    tests = tested(sweep, gaps)
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
        if tests:
            text += (
                f"p is adjusted for {len(tests)} comparison{'s' * (len(tests) > 1)} (Holm), "
                f"and * marks p below {LEVEL:g}."
            )
        else:
            text += "none of its differences can be tested, so none is known to differ from 0."
        if others:
            text += " The other metrics are descriptive; their intervals are not adjusted."
    lines = [text, "", *_table(differences_table(sweep, gaps)), ""]
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


def _table(cells: Cells) -> list[str]:
    rows = [cells.head, ["---"] * len(cells.head), *cells.body]
    return ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("*", "\\*")
