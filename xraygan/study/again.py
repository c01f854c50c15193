"""The results of a study, made again from its runs: what a reviewer compares with its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xraygan.rundir.file_readers import LARGEST
from xraygan.rundir.reader import RunFiles
from xraygan.statistics.paired_bootstrap import Resampled, difference
from xraygan.sweep.file import Layout, Row, Sweep
from xraygan.sweep.plan import Run, plan
from xraygan.utils.parsing import parse_json, read_text

from .design import AGAIN, BEFORE, MIXED
from .filters import NONE
from .record import OF_AUDIT, result
from .verdict import outcomes, recommendation

Object = dict[str, Any]


def tested_runs(folder: Path, content: Object) -> list[Run]:
    """The runs on test images that the ``utility.json`` of a study names."""
    arms = {r["described"]: [*r["arms"]] for r in content["real"]}
    first = content["real"][0]["arms"][AGAIN]
    return _runs(folder / "test", arms, map(int, first["seeds"]))


def results_again(folder: Path, content: Object) -> Object:
    """What ``utility.json`` should say, from the runs and ``audit.json`` of a study.

    Keys that follow from the design are taken from the file.

    Raises:
        UserError: a run lacks the metric.
        KeyError, OSError, ValueError: a file is not one that a study wrote.
    """
    metric, runs = content["metric"], tested_runs(folder, content)
    chosen, tried = {}, {}
    for entry in content["real"]:
        measured = _choice(folder, entry, metric)
        again = measured.pop(AGAIN, {})
        gaps = {name: difference(some, again, metric) for name, some in measured.items()}
        tried[entry["real"]] = {name: gap for name, gap in gaps.items() if gap is not None}
        use = MIXED
        if measured:
            means = {name: _mean(some, metric) for name, some in measured.items()}
            entry["candidate"], use = best_of(means, unfiltered=NONE in content["filters"])
        chosen[entry["real"]] = use
    found = outcomes(runs, [entry["real"] for entry in content["real"]], chosen, metric)
    kept = ("real", "described", "mixed", "before", "candidate")
    results = [
        result({key: entry[key] for key in kept}, chosen[n], tried[n], found[n], metric)
        for entry in content["real"]
        for n in (entry["real"],)
    ]
    report = parse_json(read_text(folder / "audit.json", LARGEST))
    audit = {key: report[key] for key in OF_AUDIT}
    advice = recommendation(found, chosen, audit["verdict"])
    return {**content, "recommendation": advice, "audit": audit, "real": results}


def best_of(values: Mapping[str, float], *, unfiltered: bool) -> tuple[str, str]:
    """The candidate that is best by the rules of :mod:`xraygan.study.choice`, and the arm to use.

    Args:
        values: the means of the candidates on validation images, in the order of their runs;
            their negatives where less is better.
        unfiltered: whether the images without any filter are a candidate.
    """
    plain = {name: v for name, v in values.items() if name != BEFORE and "," not in name}
    ratio = max(plain, key=plain.__getitem__)
    own = {n: v for n, v in values.items() if n.startswith(f"{ratio}, ")}
    own = ({ratio: values[ratio]} if unfiltered else {}) | own
    mixed = max(own, key=own.__getitem__)
    use = BEFORE if values.get(BEFORE, -np.inf) > values[mixed] else MIXED
    return mixed, use


def _choice(folder: Path, entry: Object, metric: str) -> dict[str, dict[int, Resampled]]:
    """The runs that chose for one number of real images, by arm and seed."""
    tried = entry["tried_on_validation"]
    if not tried:
        return {}
    seeds = [int(seed) for seed in next(iter(tried.values()))["difference"]["seeds"]]
    measured: dict[str, dict[int, Resampled]] = {}
    for run in _runs(folder / "choice", {entry["described"]: [AGAIN, *tried]}, seeds):
        files = Resampled(RunFiles(run.run_dir.path))
        measured.setdefault(run.row.variant, {})[run.seed] = files
    return measured


def _mean(runs: Mapping[int, Resampled], metric: str) -> float:
    values = [run.value(metric) for run in runs.values()]
    sign = next(iter(runs.values())).sign(metric)
    return sign * float(np.mean([np.nan if value is None else value for value in values]))


def _runs(folder: Path, arms: Mapping[str, Iterable[str]], seeds: Iterable[int]) -> list[Run]:
    rows = [
        Row(f"{arm}, {described}", arm, described, "", {})
        for described, names in arms.items()
        for arm in names
    ]
    return plan(Sweep(folder, "", "", [*seeds], rows, Layout(metrics=[""]), "", {}), folder)
