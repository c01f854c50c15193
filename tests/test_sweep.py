"""Sweeps: what is run, what a table says of it, and what a kill leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w

from xraygan import UserError
from xraygan.seed_variance import SeedVariance
from xraygan.sweep import Sweep, load, shipped, write_tables
from xraygan.sweep.runner import Run, plan

SMALL = {
    "title": "A small sweep",
    "recipe": "baseline_resnet50",
    "set": {
        "run": {"steps": 6, "batch_size": 4, "save_every": 2, "log_every": 1},
        "data": {
            "plugin": "phantom", "images": 60, "image_size": 32,
            "classes": ["Cardiomegaly", "Effusion", "Edema"],
        },
        "classifier": {"plugin": "resnet18", "weights": "random"},
        "evaluation": {"bootstrap": 50},
    },
    "grid": {"classifier": {"optimizer": {"lr": [0.0001, 0.001]}}},
    "table": {"metrics": ["accuracy", "auc/mean"], "paper": {"0.001": [0.9, 0.95]}},
    "presets": {"fast": {"set": {"run": {"steps": 2}}}},
}  # fmt: skip


def written(path: Path, **changes: Any) -> Path:
    path.write_text(tomli_w.dumps({**SMALL, **changes}), encoding="utf-8")
    return path


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_sweep_is_whole(name: str) -> None:
    """Each row and preset is a recipe without a fault, and has the fast preset."""
    full, fast = load(name), load(name, preset="fast")
    assert fast.reduced and not full.reduced
    assert [row.label for row in fast.rows] == [row.label for row in full.rows]
    assert len(full.seeds) >= 3


def test_rows_are_variants_times_grid() -> None:
    sweep = load("as_said_vs_as_released")
    variants = list(dict.fromkeys(row.variant for row in sweep.rows))
    points = list(dict.fromkeys(row.point for row in sweep.rows))
    assert points == ["40", "100", "400"]
    assert [(row.variant, row.point) for row in sweep.rows] == [
        (variant, point) for variant in variants for point in points
    ]
    assert {row.over["data.limit"] for row in sweep.rows} == {40, 100, 400}


def test_presets_and_set_come_last(tmp_path: Path) -> None:
    path = written(tmp_path / "small.toml")
    (row, *_) = load(path, preset="fast").rows
    assert row.over["run.steps"] == 2
    (row, *_) = load(path, ["run.steps=3"], preset="fast").rows
    assert row.over["run.steps"] == 3
    tree = load(path).tree(row, 7)
    assert tree["run"]["seed"] == 7
    assert tree["classifier"]["optimizer"]["lr"] == 0.0001


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"grids": {}}, r"grids: unknown key; .*grid"),
    "no list": ({"grid": {"run": {"batch_size": 4}}}, r"grid.run.batch_size: expected a list"),
    "paper": (
        {"table": {"metrics": ["accuracy"], "paper": {"0.01": [0.9]}}},
        r"table.paper: no row is called '0.01'; .*0.001",
    ),
    "figures": (
        {"table": {"metrics": ["accuracy"], "paper": {"0.001": [0.9, 0.8]}}},
        r"2 figures for 1 metrics",
    ),
    "baseline": (
        {"table": {"metrics": ["accuracy"], "baseline": "none"}},
        r"table.baseline: no row is called 'none'",
    ),
    "recipe": ({"recipe": "baseline_resnet5"}, r"no recipe at baseline_resnet5: .*baseline_resnet"),
    "row": (
        {"set": {"run": {"stepz": 1}}},
        r"row '0.0001': (.|\n)*small.toml: \[run\] stepz: unknown key",
    ),
    "seeds": ({"seeds": []}, r"seeds: .*at least 1"),
    "twice": ({"variants": [{"name": "a"}, {"name": "a"}]}, r"two rows are called 'a, 0.0001'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_sweep_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    changes, message = FAULTS[name]
    with pytest.raises(UserError, match=message):
        load(written(tmp_path / "small.toml", **changes))


# -- the table -------------------------------------------------------------------------------------


def fake_run(directory: Path, figures: dict[str, np.ndarray], patients: list[str]) -> None:
    """A run directory as far as a table reads it; a figure's value is its resamples' mean."""
    directory.mkdir(parents=True)
    metrics = {
        name: {"value": float(values.mean()), "n": len(patients), "interval": None, "note": ""}
        for name, values in figures.items()
    }
    protocol = {"name": "official", "dataset": "phantom", "trained_on": "real"}
    content = {"step": 6, "protocol": protocol, "metrics": metrics}
    (directory / "evaluation.json").write_text(json.dumps(content))
    pd.DataFrame({"patient": patients}).to_csv(directory / "predictions.csv", index=False)
    pd.DataFrame(figures).to_csv(directory / "bootstrap.csv", index=False)


def drawn_runs(sweep: Sweep, out: Path, effect: float, sd: float) -> list[Run]:
    """Fake runs of two rows, tested on patients some of whom are hard for all networks.

    The second row is better by ``effect``; its seeds differ by ``sd``, the first's the other way.
    """
    source = np.random.default_rng(0)
    runs = plan(sweep, out)
    hard = source.normal(0, 0.01, 400)
    for run in runs:
        own = source.normal(0, 0.004, 400)
        second = run.row.label == "0.001"
        middle = 0.8 + effect * second + sd * (run.seed - 1) * (1 if second else -1)
        values = (middle + hard + own - (hard + own).mean()).round(9)
        fake_run(run.place.path, {"accuracy": values, "auc/mean": values / 2}, ["a", "b", "b"])
    return runs


def test_the_table_is_the_mean_over_seeds_with_intervals_over_seeds_and_patients(
    tmp_path: Path,
) -> None:
    layout = {**SMALL["table"], "baseline": "0.0001"}
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], table=layout))
    runs = drawn_runs(sweep, tmp_path, effect=0.1, sd=0.01)
    failed = next(run for run in runs if (run.row.label, run.seed) == ("0.001", 2))
    shutil.rmtree(failed.place.path)
    failed.failure = "exit code 2: it had a fault"
    write_tables(sweep, runs, tmp_path, "xraygan sweep small.toml")
    table = pd.read_csv(tmp_path / "table.csv").set_index(["row", "metric"])
    drawn = {
        (float(run.row.label), run.seed): pd.read_csv(run.place.path / "bootstrap.csv")["accuracy"]
        for run in runs
        if run is not failed
    }
    for label, seeds in ((0.0001, (0, 1, 2)), (0.001, (0, 1))):
        line = table.loc[label, "accuracy"]
        values = [drawn[label, seed].mean() for seed in seeds]
        assert line["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        assert line["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert line["seeds"] == len(seeds)
        mean = np.mean([drawn[label, seed] for seed in seeds], axis=0)
        patients = np.quantile(mean, [0.025, 0.975])
        found = (line["patients_low"], line["patients_high"])
        assert found == pytest.approx(patients, abs=1e-6)
        assert line["low"] < patients[0] < patients[1] < line["high"]
    line = table.loc[0.001, "accuracy"]
    gaps = [drawn[0.001, seed] - drawn[0.0001, seed] for seed in (0, 1)]
    assert line["difference_seeds"] == 2
    assert line["difference"] == pytest.approx(np.mean(gaps), abs=1e-6)
    patients = np.quantile(np.mean(gaps, axis=0), [0.025, 0.975])
    found = (line["difference_patients_low"], line["difference_patients_high"])
    assert found == pytest.approx(patients, abs=1e-6)
    width = SeedVariance.of([gap.mean() for gap in gaps], gaps).half_width()
    found = (line["difference_low"], line["difference_high"])
    assert found == pytest.approx(
        (line["difference"] - width, line["difference"] + width), abs=1e-5
    )
    assert line["paper"] == 0.9
    assert np.isnan(table.loc[0.0001, "accuracy"]["paper"])
    text = (tmp_path / "table.md").read_text()
    assert "- 0.001, seed 2: exit code 2: it had a fault" in text
    assert "0.001: without seed 2, which one of the two rows lacks." in text
    assert "not a result" not in text
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("sd", [0.0002, 0.01])
def test_a_difference_is_marked_if_seeds_and_patients_allow(tmp_path: Path, sd: float) -> None:
    """0.012 of accuracy: patients alone tell it from 0, but seeds that differ by 0.01 do not."""
    layout = {"metrics": ["accuracy", "auc/mean"], "baseline": "0.0001", "difference": 0.02}
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], table=layout))
    write_tables(sweep, drawn_runs(sweep, tmp_path, effect=0.012, sd=sd), tmp_path, "")
    line = pd.read_csv(tmp_path / "table.csv").set_index(["row", "metric"]).loc[0.001, "accuracy"]
    assert line["difference_patients_low"] > 0
    text = (tmp_path / "table.md").read_text()
    small = sd < 0.001
    assert (line["difference_low"] > 0) == small
    assert (line["p_holm"] < 0.05) == small
    assert ("\\*" in text) == small
    assert "`accuracy` is the primary metric: p is adjusted for 1 comparison (Holm)" in text
    assert ("- 0.001: " in text) and (
        ("are enough for 0.02" if small else "0.02 would take") in text
    )
    assert line["detectable"] == pytest.approx(0.008 if small else 0.05, rel=0.8)


def test_one_seed_cannot_speak_of_training(tmp_path: Path) -> None:
    layout = {"metrics": ["accuracy"], "baseline": "0.0001"}
    sweep = load(written(tmp_path / "small.toml", seeds=[0], table=layout))
    write_tables(sweep, drawn_runs(sweep, tmp_path, effect=0.2, sd=0.0), tmp_path, "")
    line = pd.read_csv(tmp_path / "table.csv").set_index(["row", "metric"]).loc[0.001, "accuracy"]
    assert line["difference_patients_low"] > 0.15
    assert line[["difference_low", "p", "p_holm", "detectable"]].isna().all()
    text = (tmp_path / "table.md").read_text()
    assert "over patients alone" in text
    assert "One pair of runs cannot tell what the recipe does from what its seed does" in text
    assert "\\*" not in text


def test_seeds_that_were_tested_on_other_patients_have_no_common_interval(tmp_path: Path) -> None:
    sweep = load(
        written(tmp_path / "small.toml", seeds=[0, 1], grid={}, table={"metrics": ["auc"]})
    )
    runs = plan(sweep, tmp_path)
    for run, patients in zip(runs, (["a", "b"], ["a", "c"]), strict=True):
        fake_run(run.place.path, {"auc": np.linspace(0.7, 0.8, 20)}, patients)
    write_tables(sweep, runs, tmp_path, "")
    line = pd.read_csv(tmp_path / "table.csv").iloc[0]
    assert line["mean"] == pytest.approx(0.75)
    assert np.isnan(line["low"])


# -- running ---------------------------------------------------------------------------------------


def start(path: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "xraygan", "sweep", str(path), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_sweep_started_again_ends_with_the_same_table(tmp_path: Path) -> None:
    """Killed while its first run trains, ended while its second does.

    One row cannot be run: it is reported and the others are not taken down.
    """
    axes = {"classifier": {"optimizer": {"lr": [0.001]}}, "run": {"batch_size": [4, 8, 600]}}
    layout = {"metrics": ["accuracy", "auc/mean"]}
    path = written(tmp_path / "small.toml", grid=axes, table=layout)
    whole = start(path, tmp_path / "whole")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 2, said
    assert "0.001, 600, seed 0: exit code 2: [run] batch_size is 600, but only" in said
    table = (tmp_path / "whole" / "table.csv").read_text()
    assert table.count("\n") == 7
    assert pd.read_csv(tmp_path / "whole" / "table.csv")["mean"].notna().sum() == 4

    out = tmp_path / "killed"
    for done, number in enumerate((signal.SIGKILL, signal.SIGTERM)):
        process = start(path, out)
        wait_for(lambda: len([*out.glob("runs/*/checkpoints/latest")]) > done, process)  # noqa: B023
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode == (143 if number == signal.SIGTERM else -9)
    again = start(path, out, "--jobs", "2")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 2, said
    assert (out / "table.csv").read_text() == table


def wait_for(condition: Any, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
