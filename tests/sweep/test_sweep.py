"""Sweeps: what is run, what a table says of it, and what a kill leaves."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from click.testing import CliRunner

from xraygan import UserError
from xraygan.cli import cli
from xraygan.recipe import files
from xraygan.recipe import loading as recipe
from xraygan.statistics.seed_variance import SeedVariance
from xraygan.sweep import Sweep, load, run_all, runner, shipped, write_tables
from xraygan.sweep.plan import Run, plan
from xraygan.utils.progress import Display

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


CONTROL = "Real images, as many per step"


@pytest.mark.parametrize("preset", ["", "cpu", "fast"])
@pytest.mark.parametrize(
    "name", ["table5", "table6", "table7", "table8", "small_data", "as_said_vs_as_released"]
)
def test_a_row_of_real_images_sees_as_many_in_a_step_as_real_and_generated_ones(
    name: str, preset: str
) -> None:
    if preset == "cpu" and name.startswith("table") and name != "table8":
        pytest.skip("the sweep has no such preset")
    sweep = load(name, preset=preset)
    recipes = [(row, sweep.recipe(row, 0)) for row in sweep.rows]
    controls = [(row, found) for row, found in recipes if row.variant == CONTROL]
    assert controls
    for row, control in controls:
        assert not control.tables.generator and not control.tables.labeler
        assert control.tables.data.limit == next(
            found.tables.data.limit
            for other, found in recipes
            if other.point == row.point and found.tables.generator
        )
        sizes = [f.tables.run.batch_size for _, f in recipes if f.tables.generator]
        assert control.tables.run.batch_size == 2 * max(sizes)


def test_rows_are_variants_times_grid() -> None:
    sweep = load("as_said_vs_as_released")
    variants = list(dict.fromkeys(row.variant for row in sweep.rows))
    points = list(dict.fromkeys(row.point for row in sweep.rows))
    assert points == ["100", "400"]
    assert [(row.variant, row.point) for row in sweep.rows] == [
        (variant, point) for variant in variants for point in points
    ]
    assert {row.over["data.limit"] for row in sweep.rows} == {100, 400}


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
    (directory / "report.html").touch()
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
        fake_run(run.run_dir.path, {"accuracy": values, "auc/mean": values / 2}, ["a", "b", "b"])
    return runs


def test_the_table_is_the_mean_over_seeds_with_intervals_over_seeds_and_patients(
    tmp_path: Path,
) -> None:
    layout = {**SMALL["table"], "baseline": "0.0001"}
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], table=layout))
    runs = drawn_runs(sweep, tmp_path, effect=0.1, sd=0.01)
    failed = next(run for run in runs if (run.row.label, run.seed) == ("0.001", 2))
    shutil.rmtree(failed.run_dir.path)
    failed.failure = "exit code 2: it had a fault"
    write_tables(sweep, runs, tmp_path, "xraygan sweep small.toml")
    table = pd.read_csv(tmp_path / "table.csv").set_index(["row", "metric"])
    drawn = {
        (float(run.row.label), run.seed): pd.read_csv(run.run_dir.path / "bootstrap.csv")[
            "accuracy"
        ]
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
    assert "- 0.001: without seed 2, which one of the two rows lacks\n" in text
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
    assert "One pair of runs cannot separate the effect of the recipe from that of the seed" in text
    assert "\\*" not in text


def test_seeds_that_were_tested_on_other_patients_have_no_common_interval(tmp_path: Path) -> None:
    sweep = load(
        written(tmp_path / "small.toml", seeds=[0, 1], grid={}, table={"metrics": ["auc"]})
    )
    runs = plan(sweep, tmp_path)
    for run, patients in zip(runs, (["a", "b"], ["a", "c"]), strict=True):
        fake_run(run.run_dir.path, {"auc": np.linspace(0.7, 0.8, 20)}, patients)
    write_tables(sweep, runs, tmp_path, "")
    line = pd.read_csv(tmp_path / "table.csv").iloc[0]
    assert line["mean"] == pytest.approx(0.75)
    assert np.isnan(line["low"])


def faked(sweep: Sweep, out: Path, figures: Callable[[Run], dict[str, np.ndarray]]) -> list[Run]:
    """Fake runs of all rows."""
    runs = plan(sweep, out)
    for run in runs:
        fake_run(run.run_dir.path, figures(run), ["a", "b", "b"])
    return runs


def changed_evaluation(run: Run, metric: str, **measured: Any) -> None:
    content = json.loads(run.run_dir.evaluation.read_text())
    content["metrics"].setdefault(metric, {}).update(measured)
    run.run_dir.evaluation.write_text(json.dumps(content))


THREE = {"metrics": ["accuracy", "kid"], "baseline": "0.0001"}


@pytest.mark.parametrize("case", ["other patients", "all alike", "not measured", "own classifier"])
def test_several_seeds_are_not_called_one_where_nothing_can_be_tested(
    case: str, tmp_path: Path
) -> None:
    """It said that one pair of runs cannot tell, and that more seeds would help."""
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], table=THREE))
    runs = drawn_runs(sweep, tmp_path, effect=0.0, sd=0.01)
    for run in runs:
        changed_evaluation(run, "kid", value=run.seed * float(run.row.label), n=3, note="")
        if case == "not measured":
            changed_evaluation(run, "accuracy", value=None)
        if case == "own classifier":
            changed_evaluation(run, "accuracy", note="by the run's own classifier")
        if case == "all alike":
            changed_evaluation(run, "accuracy", value=0.8)
            run.run_dir.bootstrap.unlink()
        if case == "other patients":
            who = pd.DataFrame({"patient": ["a", "b", f"c{run.seed}"]})
            who.to_csv(run.run_dir.predictions, index=False)
    write_tables(sweep, runs, tmp_path, "")
    text = (tmp_path / "table.md").read_text()
    assert "One pair of runs" not in text and "three seeds or more" not in text
    assert "paired by seed, with its 95 % interval over training seeds and patients" in text
    assert "(of kid: over training seeds alone). `accuracy` is the primary metric: none of" in text
    because = {
        "other patients": "- 0.001 (accuracy): no interval: the runs were tested on other",
        "all alike": "- 0.001 (accuracy): no interval: neither seeds nor patients make a",
        "not measured": "n/a",
        "own classifier": "- accuracy: not comparable between runs",
    }
    assert because[case] in text


def test_a_table_says_which_intervals_know_no_patients(tmp_path: Path) -> None:
    """Without resamples of patients an interval is over seeds alone, also that of a difference."""
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], table=THREE))
    runs = drawn_runs(sweep, tmp_path, effect=0.1, sd=0.01)
    for run in runs:
        changed_evaluation(run, "kid", value=run.seed * float(run.row.label), n=3, note="")
        run.run_dir.bootstrap.unlink()
    write_tables(sweep, runs, tmp_path, "")
    text = (tmp_path / "table.md").read_text()
    assert text.count("patients (of accuracy, kid: over training seeds alone)") == 2


def test_a_single_seeds_interval_is_not_said_to_be_over_patients_where_it_is_not(
    tmp_path: Path,
) -> None:
    sweep = load(written(tmp_path / "small.toml", seeds=[0], table=THREE))
    runs = drawn_runs(sweep, tmp_path, effect=0.1, sd=0.01)
    for run in runs:
        changed_evaluation(run, "accuracy", interval=[0.5, 1.0])
        changed_evaluation(run, "kid", value=1.0, n=3, note="", interval=[0.5, 1.5])
    write_tables(sweep, runs, tmp_path, "")
    text = (tmp_path / "table.md").read_text()
    assert "over patients alone (of kid: not over patients, but as its run measured it)" in text
    assert "1.000 (0.500 to 1.500)" in text
    table = pd.read_csv(tmp_path / "table.csv").set_index(["row", "metric"])
    assert table.loc[0.001, "accuracy"]["patients_low"] == 0.5
    assert np.isnan(table.loc[0.001, "kid"]["patients_low"])


def test_a_row_that_lacks_seeds_says_so_of_every_metric(tmp_path: Path) -> None:
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], table=THREE))
    runs = drawn_runs(sweep, tmp_path, effect=0.1, sd=0.01)
    for run in runs:
        there = run.row.label == "0.0001" or run.seed != 2
        changed_evaluation(run, "kid", value=1.0 + run.seed if there else None, n=3, note="")
    write_tables(sweep, runs, tmp_path, "")
    text = (tmp_path / "table.md").read_text()
    assert "- 0.001 (kid): without seed 2\n" in text
    assert "- 0.001 (kid): without seed 2, which one of the two rows lacks" in text
    for run in runs:
        if run.row.label == "0.001" and run.seed:
            shutil.rmtree(run.run_dir.path)
    write_tables(sweep, runs, tmp_path, "")
    text = (tmp_path / "table.md").read_text()
    assert "- 0.001: without seed 1, 2\n" in text
    assert "- 0.001 (accuracy): its interval is over patients alone: one seed does" in text


@pytest.mark.parametrize("known", [True, False])
def test_the_interval_of_a_mean_is_no_narrower_than_what_patients_leave_open(
    known: bool, tmp_path: Path
) -> None:
    """Three seeds that are perfect, or nearly so, say nothing of patients who were not tested.

    Runs of a former version do not say that the figure is a share, and call a perfect one certain.
    """
    sweep = load(
        written(tmp_path / "small.toml", seeds=[0, 1, 2], grid={}, table={"metrics": ["accuracy"]})
    )
    resamples = np.ones(100)
    runs = faked(sweep, tmp_path, lambda run: {"accuracy": resamples})
    ends = {"limits": [0.0, 1.0], "interval": [0.7, 1.0]} if known else {"interval": [1.0, 1.0]}
    for run in runs:
        changed_evaluation(run, "accuracy", **ends)
    write_tables(sweep, runs, tmp_path, "")
    line = pd.read_csv(tmp_path / "table.csv").iloc[0]
    assert (line["low"], line["high"]) == (0.7, 1.0) if known else np.isnan(line["low"])
    changed_evaluation(runs[0], "accuracy", value=0.9999, interval=[0.69, 1.0])
    write_tables(sweep, runs, tmp_path, "")
    line = pd.read_csv(tmp_path / "table.csv").iloc[0]
    if known:
        assert line["low"] == pytest.approx(0.697, abs=0.002)
    assert line["high"] <= 1.0


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


# -- runs that are there already -------------------------------------------------------------------


ONE = {"grid": {}, "seeds": [0, 1], "table": {"metrics": ["accuracy"]}}
QUIET = Display(quiet=True)


def finished(sweep: Sweep, out: Path) -> list[Run]:
    """Run directories of every run of a sweep, as if they had been run."""
    runs = plan(sweep, out)
    for run in runs:
        fake_run(run.run_dir.path, {"accuracy": np.linspace(0.7, 0.8, 20)}, ["a", "b"])
        recipe = sweep.recipe(run.row, run.seed).resolved()
        run.run_dir.recipe.write_text(tomli_w.dumps(recipe), encoding="utf-8")
        data = {"fingerprint": "f00d"}
        environment = {"xraygan": "1.2.3", "torch": "9.8.7", "git": "abc123", "dataset": data}
        environment["finished"] = {"step": recipe["run"]["steps"]}
        run.run_dir.environment.write_text(json.dumps(environment))
    return runs


def refuse_to_start(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let no run start; returns the names of those that would have."""
    started: list[str] = []

    def start(run: Run, slot: int, jobs: int) -> None:
        started.append(run.run_dir.path.name)
        run.process = subprocess.Popen([sys.executable, "-c", ""])
        run.log.write_text("not run in this test")

    monkeypatch.setattr(runner, "_start_run", start)
    return started


def test_a_run_of_another_recipe_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = refuse_to_start(monkeypatch)
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    finished(load(path), out)
    assert all(run.done for run in run_all(load(path), out, QUIET))
    kept = sorted(out.rglob("*"))
    message = r"2 runs .*\n.*small-seed-0\n +run.steps: 6 there, 12 requested\n(.|\n)*--redo"
    with pytest.raises(UserError, match=message):
        run_all(load(path, ["run.steps=12"]), out, QUIET)
    (out / "runs/small-seed-0/evaluation.json").unlink()  # an unfinished one is no other case
    with pytest.raises(UserError, match=message):
        run_all(load(path, ["run.steps=12"]), out, QUIET)
    assert sorted(out.rglob("*")) == [p for p in kept if p.exists()]
    assert not started


def test_what_changes_no_figure_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = refuse_to_start(monkeypatch)
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    finished(load(path), out)
    sets = ["run.log_every=7", "run.save_every=0", f"data.cache={tmp_path}", "run.device=cpu"]
    tracked = [{"name": "small", "set": {"trackers": {"csv": {}}}}]
    run_all(load(written(path, **ONE, variants=tracked), sets), out, QUIET)
    assert not started


def test_a_command_without_redo_has_another_remedy(tmp_path: Path) -> None:
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    finished(load(path), out)
    changed = load(path, ["classifier.optimizer.lr=0.5"])
    with pytest.raises(
        UserError, match=r"lr: .* there, 0.5 requested(.|\n)*\nname another folder$"
    ):
        run_all(changed, out, QUIET, remedy="name another folder")


def test_redo_deletes_and_runs_exactly_those_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = refuse_to_start(monkeypatch)
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    runs = finished(load(path), out)
    changed = load(path, ["classifier.optimizer.lr=0.5"])
    other = changed.recipe(changed.rows[0], 1)
    runs[1].run_dir.recipe.write_text(tomli_w.dumps(other.resolved()))
    (runs[1].run_dir.path / "checkpoints").mkdir()
    stranger = out / "runs" / "mine" / "notes.txt"
    stranger.parent.mkdir()
    stranger.write_text("kept")
    again = run_all(load(path), out, QUIET, redo=True)
    assert started == ["small-seed-1"]
    assert [run.done for run in again] == [True, False]
    assert stranger.read_text() == "kept"
    assert {p.name for p in runs[1].run_dir.path.iterdir()} <= {".lock"}


def test_a_run_that_was_measured_otherwise_is_not_taken_for_done(tmp_path: Path) -> None:
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    runs = finished(load(path), out)
    for change, message in (
        ({"protocol": {"changed": {"evaluation.protocol": "paper"}}}, "evaluation.protocol: paper"),
        ({"protocol": {"fingerprint": "beef"}}, "fingerprint of the data: beef there, f00d"),
        ({"step": 4}, "the evaluated step: 4 there, 6"),
    ):
        before = runs[0].run_dir.evaluation.read_text()
        content = json.loads(before)
        runs[0].run_dir.metrics.write_text('{"step": 6}\n')
        runs[0].run_dir.evaluation.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message):
            run_all(load(path), out, QUIET)
        runs[0].run_dir.evaluation.write_text(before)


def test_a_run_without_its_recipe_is_not_taken_for_done(tmp_path: Path) -> None:
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    finished(load(path), out)[0].run_dir.recipe.unlink()
    for redo in (False, True):
        with pytest.raises(UserError, match="small-seed-0: it has an evaluation"):
            run_all(load(path), out, QUIET, redo=redo)


def test_the_recipes_of_a_sweep_work_in_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the sweep, without the local recipe that it runs, and by no path of this machine."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.toml").write_text(
        'extends = "baseline_resnet50"\n[classifier]\nweight = 0.5\n', encoding="utf-8"
    )
    variants = [{"name": "shipped"}, {"name": "local", "recipe": "mine.toml"}]
    path = written(home / "small.toml", **{**ONE, "variants": variants})
    sweep = load(path, [f"data.root={tmp_path}"])  # a relative one is of the working directory
    wanted = [sweep.recipe(run.row, run.seed).resolved() for run in plan(sweep, home / "out")]
    finished(sweep, home / "out")
    runs = run_all(sweep, home / "out", QUIET)
    there = home.rename(tmp_path / "elsewhere") / "out" / "recipes"
    monkeypatch.chdir(there)
    shipped_at = str(Path(files.find_shipped("baseline_resnet50")).parent)
    for run, resolved in zip(runs, wanted, strict=True):
        text = (there / run.recipe.name).read_text(encoding="utf-8")
        assert str(home) not in text and shipped_at not in text and "extends" not in text
        assert recipe.load(run.recipe.name).resolved() == resolved


def sweep_command(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(cli, ["sweep", *words])
    return found.exit_code, found.output


def test_the_printed_command_makes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given again it is content with the runs: it asks for the same recipes in the same folder."""
    started = refuse_to_start(monkeypatch)
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "a folder"
    sets = ["--set", "data.images=80", "--set", "classifier.optimizer.lr=0.01"]
    finished(load(path, sets[1::2], preset="fast"), out)
    code, said = sweep_command(str(path), "--fast", "--out", str(out), "--jobs", "2", *sets)
    assert code == 0, said
    line = said.split("```sh\n")[1].split("\n")[0]
    assert shlex.split(line) == [
        *("xraygan", "sweep", str(path), "--preset", "fast", "--out", str(out), "--jobs", "2"),
        *sets,
    ]
    before = (out / "table.md").read_text()
    code, _ = sweep_command(*shlex.split(line)[2:])
    assert (code, (out / "table.md").read_text()) == (0, before)
    assert not started


def test_the_table_says_what_made_it_and_where_the_runs_differ(tmp_path: Path) -> None:
    sweep = load(written(tmp_path / "small.toml", **ONE))
    runs = finished(sweep, tmp_path)
    text = write_tables(sweep, runs, tmp_path, "").read_text()
    for line in ("revision: abc123", "xraygan: 1.2.3", "torch: 9.8.7", "seeds: 0, 1"):
        assert f"\n- {line}\n" in text
    assert "\n- fingerprint of the data: f00d\n" in text
    environment = json.loads(runs[1].run_dir.environment.read_text())
    environment["dataset"]["fingerprint"] = "beef"
    runs[1].run_dir.environment.write_text(json.dumps(environment))
    text = write_tables(sweep, runs, tmp_path, "").read_text()
    assert (
        "- fingerprint of the data: **the runs differ**\n"
        "    - f00d: small-seed-0\n    - beef: small-seed-1\n"
    ) in text
    change = {"step": 4, "changed": {"threads": {"was": 8, "now": 2}}}
    environment |= {"threads": 2, "resumed": [{"step": 2, "changed": {}}, change]}
    runs[1].run_dir.environment.write_text(json.dumps(environment))
    text = write_tables(sweep, runs, tmp_path, "").read_text()
    assert "    - 8 until step 4, 2: small-seed-1\n" in text


@pytest.mark.parametrize(
    ("rows", "limit", "said"),
    [
        (2, 20, "f0 (seed 0), f1 (seed 1)\n"),
        (2, None, "**the runs differ**\n"),
        (3, 20, "**the runs differ**\n"),  # the last row has other images of the same seeds
    ],
)
def test_each_seed_draws_its_own_images(
    rows: int, limit: int | None, said: str, tmp_path: Path
) -> None:
    variants = [{"name": f"row {i}"} for i in range(rows)]
    sets = [] if limit is None else [f"data.limit={limit}"]
    sweep = load(written(tmp_path / "small.toml", **ONE | {"variants": variants}), sets)
    runs = finished(sweep, tmp_path)
    for run in runs:
        environment = json.loads(run.run_dir.environment.read_text())
        last = "x" if run.row.label == "row 2" else ""
        environment["dataset"]["fingerprint"] = f"f{run.seed}{last}"
        run.run_dir.environment.write_text(json.dumps(environment))
    text = write_tables(sweep, runs, tmp_path, "").read_text()
    assert f"\n- fingerprint of the data: {said}" in text


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ({"finished": {"step": 6}}, True),
        ({}, True),  # of a former version
        ({"finished": None}, False),
        ({"finished": {"step": 4}}, False),  # trained for longer since
    ],
)
def test_a_run_is_done_once_its_end_is(change: dict, done: bool, tmp_path: Path) -> None:
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    run, _ = finished(load(path), out)
    environment = json.loads(run.run_dir.environment.read_text())
    del environment["finished"]
    run.run_dir.environment.write_text(json.dumps(environment | change))
    assert run.done is done
    (run.run_dir.path / "report.html").unlink()
    assert not run.done


def test_an_evaluated_run_that_is_not_trained_to_its_end_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `xraygan evaluate` leaves it after a kill: it was taken for a result of four steps."""
    started = refuse_to_start(monkeypatch)
    path, out = written(tmp_path / "small.toml", **ONE), tmp_path / "out"
    run, _ = finished(load(path), out)
    for file, words in (
        (run.run_dir.environment, {"finished": None}),
        (run.run_dir.evaluation, {"step": 4}),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | words))
    (run.run_dir.checkpoints / "step-00000004").mkdir(parents=True)
    run_all(load(path), out, QUIET)
    assert started == ["small-seed-0"]


def test_the_table_says_which_figures_do_not_compare_rows(tmp_path: Path) -> None:
    layout = {"metrics": ["accuracy", "frechet_classifier"]}
    sweep = load(written(tmp_path / "small.toml", **{**ONE, "table": layout}))
    runs = finished(sweep, tmp_path)
    note = {"value": 1.5, "n": 60, "interval": None, "note": "by the run's own classifier, not FID"}
    for run in runs:
        content = json.loads(run.run_dir.evaluation.read_text())
        content["metrics"]["frechet_classifier"] = note
        run.run_dir.evaluation.write_text(json.dumps(content))
    text = write_tables(sweep, runs, tmp_path, "").read_text()
    assert "\n- frechet_classifier: not comparable between runs: measured in the" in text
    assert "- accuracy: not to be" not in text


@pytest.mark.slow
def test_an_evaluation_with_other_keys_says_so_and_does_not_stay_in_the_table(
    tmp_path: Path,
) -> None:
    small = {**ONE, "seeds": [0]}
    path, out = written(tmp_path / "small.toml", **small), tmp_path / "out"
    first = start(path, out, "--fast")
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 0, said
    place = out / "runs" / "small-seed-0"
    table = (out / "table.csv").read_text()
    command = [sys.executable, "-m", "xraygan", "evaluate", str(place), "-q"]
    subprocess.run([*command, "--set", "evaluation.bootstrap=0"], check=True, capture_output=True)
    protocol = json.loads((place / "evaluation.json").read_text())["protocol"]
    assert protocol["changed"] == {"evaluation.bootstrap": 0}
    assert not (place / "bootstrap.csv").exists()  # it was of the former evaluation
    again = start(path, out, "--fast")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 2 and "evaluation.bootstrap: 0 there" in said
    again = start(path, out, "--fast", "--redo")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert (out / "table.csv").read_text() == table
    assert "changed" not in json.loads((place / "evaluation.json").read_text())["protocol"]


def test_a_figure_of_a_subgroup_is_a_column_as_any_other(tmp_path: Path) -> None:
    name = "auc/Effusion[sex=F]"
    layout = {"metrics": ["accuracy", name], "baseline": "0.0001"}
    sweep = load(written(tmp_path / "small.toml", seeds=[0], table=layout))
    source = np.random.default_rng(0)

    def figures(run: Run) -> dict[str, np.ndarray]:
        return {"accuracy": np.linspace(0.7, 0.8, 20), name: source.normal(0.375, 0.01, 20)}

    runs = faked(sweep, tmp_path, figures)
    write_tables(sweep, runs, tmp_path, "")
    lines = pd.read_csv(tmp_path / "table.csv").set_index(["row", "metric"])
    assert lines.loc[0.001, name]["mean"] == pytest.approx(0.375, abs=0.02)
    assert np.isfinite(lines.loc[0.001, name]["difference_patients_low"])
    assert name in (tmp_path / "table.md").read_text()
