"""``xraygan report``: a run's page anew, several runs on one page, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from made_run import CLASSES, FILES, HOSTILE, make, predictions, recipe
from test_report import Page

from xraygan.cli import main
from xraygan.report.comparison import comparison, open_runs
from xraygan.report.html import NONE, write_page
from xraygan.report.plots import MOST_RUNS
from xraygan.rundir.reader import RunFiles

Report = Callable[..., tuple[int, str, str]]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """Runs the command; gives its exit code, output and messages."""

    def command(*words: Path | str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xraygan", "report", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs; the second has other words, is a little worse, and has a metric more."""
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    tables = recipe()
    tables["run"] |= {"name": HOSTILE, "seed": 8}
    tables["scores"]["mmd"]["weight"] = 0.5
    del tables["scores"]["style_transfer"]
    (other / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    change(other / "evaluation.json", lambda e: e["metrics"]["accuracy"].update(value=0.7333))
    change(
        other / "evaluation.json", lambda e: e["metrics"].update(novelty={"value": 0.25, "n": 9})
    )
    table = pd.read_csv(other / "bootstrap.csv")
    (table - np.linspace(0.04, 0.16, 101)[:, None]).to_csv(other / "bootstrap.csv", index=False)
    return one, other


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    how(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def compared(tmp_path: Path, *directories: Path) -> Page:
    return Page(write_page(tmp_path / "page.html", comparison(open_runs(directories))))


def test_one_run_has_its_report_written_anew(runs: tuple[Path, Path], report: Report) -> None:
    page = runs[0] / "report.html"
    page.write_text("an old one, by any hand", encoding="utf-8")
    assert report(runs[0]) == (0, f"{page}\n", "")
    assert "1,500 of 3,000 steps" in Page(page).said
    assert sorted(p.name for p in runs[0].glob(".*")) == []


def test_interrupted_run_has_a_report(runs: tuple[Path, Path], report: Report) -> None:
    for name in ("evaluation.json", "predictions.csv", "run.log"):
        (runs[0] / name).unlink()
    assert report(runs[0])[0] == 0
    assert "Not evaluated." in Page(runs[0] / "report.html").said


def test_several_runs_are_one_page_here_or_where_it_is_asked_for(
    runs: tuple[Path, Path], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report(*runs) == (0, "comparison.html\n", "")
    first = (tmp_path / "comparison.html").read_bytes()
    assert report(*runs, "--out", "comparison.html")[0] == 0
    assert (tmp_path / "comparison.html").read_bytes() == first  # the same runs, the same page
    assert not (runs[0] / "report.html").exists()


def test_a_file_that_is_no_page_of_ours_is_left_alone(
    runs: tuple[Path, Path], report: Report, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<!doctype html><title>mine</title>", encoding="utf-8")
    for words in ([runs[0]], runs):
        code, out, said = report(*words, "--out", mine)
        assert (code, out) == (2, "")
        assert said.startswith(
            f"xraygan: {mine}: already exists and is not a page of `xraygan report`"
        )
    assert mine.read_text(encoding="utf-8") == "<!doctype html><title>mine</title>"


def test_what_is_refused_is_one_message(
    runs: tuple[Path, Path], report: Report, tmp_path: Path
) -> None:
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(runs[0])
    before = sorted(tmp_path.rglob("*"))
    for words, says in (
        ([tmp_path / "none"], "none: there is no such directory\n"),
        ([empty], "empty: not a run directory (it has no recipe.toml)\n"),
        ([runs[0], empty], "empty: not a run directory (it has no recipe.toml)\n"),
        ([runs[0], runs[0]], f"the same run as {runs[0]}; name each run once\n"),
        ([*runs, link], f"link: the same run as {runs[0]}; name each run once\n"),
        ([runs[0], "--out", empty], "name another --out FILE\n"),
        ([*runs, "--out", tmp_path / "no" / "x.html"], "(No such file or directory)\n"),
        ([tmp_path / str(i) for i in range(MOST_RUNS + 1)], f"at most {MOST_RUNS}\n"),
        ([], "Missing argument 'RUN [RUN ...]'.\n"),
    ):
        code, out, said = report(*words)
        assert (code, out) == (2, "")
        assert said.endswith(says)
        assert "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, "\x00{[") for name in FILES if name not in ("metrics.jsonl", "run.log")),
        ("recipe.toml", "run = 5"),
        ("recipe.toml", '[scores]\nmmd = "much"'),
        ("recipe.toml", "[generator]\ntrains = 1"),
        ("recipe.toml", "[data]\nimage_size = 0"),
        ("environment.json", "[]"),
        ("environment.json", '{"dataset": {"images": {"train": "many"}}}'),
        ("environment.json", '{"dataset": {"classes": {"train": 3}}}'),
        ("environment.json", '{"command": "xraygan"}'),
        ("metrics.jsonl", '{"step": "1"}\n{"step": 2}'),
        ("metrics.jsonl", '{"step": 1, "terms": {"mmd": [1]}}\n{"step": 2}'),
        ("metrics.jsonl", '{"step": 1, "progress": NaN}\n{"step": 2}'),
        ("evaluation.json", '{"step": 1, "metrics": []}'),
        ("evaluation.json", '{"metrics": {"auc": {"value": 1, "interval": [0]}}}'),
        ("evaluation.json", '{"metrics": {}, "protocol": {"confidence": "high"}}'),
        ("predictions.csv", "patient,label:a,p:a\n1,7,0.5\n"),
        ("predictions.csv", "patient,label:a\n1,1\n"),
    ],
)
def test_what_is_not_as_a_run_writes_it_is_named_and_left_out(
    tmp_path: Path, name: str, content: str
) -> None:
    directory = make(tmp_path / "run")
    (directory / name).write_text(content, encoding="utf-8")
    (damaged,) = RunFiles(directory).damaged
    assert damaged.startswith(f"{name} (")
    assert "cannot be read" in damaged


@pytest.mark.parametrize("name", ["recipe.toml", "evaluation.json", "samples/step-00001500.png"])
def test_page_is_written_without_a_damaged_file(
    runs: tuple[Path, Path], report: Report, tmp_path: Path, name: str
) -> None:
    (runs[0] / name).write_text("[", encoding="utf-8")
    for words, page in (
        ([runs[0]], runs[0] / "report.html"),
        ([*reversed(runs), "--out", tmp_path / "both.html"], tmp_path / "both.html"),
    ):
        code, out, said = report(*words)
        assert (code, out) == (2, f"{page}\n")
        first, second = said.splitlines()
        assert first == "xraygan: the page was written without these files:"
        assert second.startswith(f"  {runs[0]}/{name} (cannot be read: ")
        assert f"{name} (cannot be read: " in Page(page).said


def test_comparison_shows_what_differs_and_folds_the_rest(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    page = compared(tmp_path, *runs)
    assert "run.seed 7 8 " in page.said
    assert f"scores.mmd.weight 0.25 0.5 scores.style_transfer.weight 0.0001 {NONE}" in page.said
    assert "16 keys of the recipes are the same" in page.said
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    marked = re.findall("<mark><code>(.*?)</code></mark>", written)
    assert marked == [escape(json.dumps(HOSTILE)), "8", "0.5", NONE]


def test_comparison_shows_metrics_with_intervals_and_paired_differences(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    page = compared(tmp_path, *runs)
    # The resamples differ by 0.04 to 0.16: the outer 2.5 % are left out on either side.
    gap = "-0.100 (-0.157 to -0.043, patients alone)".replace("-", "\N{MINUS SIGN}")
    assert f"0.833 0.500 to 1.000 0.733 0.500 to 1.000 {gap}" in page.said
    assert "patients alone" not in page.text["mark"]  # one seed each: nothing is told of training
    assert "Over training seeds" not in page.said
    assert f"Novelty n 9 {NONE} not measured 0.250 no interval" in page.said
    assert "accuracy of each run, with intervals" in [s.get("aria-label") for s in page.all("svg")]


def test_no_differences_are_paired_over_other_patients(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pd.read_csv(runs[1] / "predictions.csv")
    table.assign(patient=range(6)).to_csv(runs[1] / "predictions.csv", index=False)
    page = compared(tmp_path, *runs)
    assert "0.733 0.500 to 1.000" in page.said
    assert "0.100" not in page.said


def test_recipes_that_ran_with_several_seeds_are_compared_over_seeds(tmp_path: Path) -> None:
    """Two systems of three seeds; the second is better by 0.1 with every seed, or with none."""
    source = np.random.default_rng(0)
    hard = source.normal(0, 0.02, 101)

    def made(name: str, weight: float, seed: int, accuracy: float) -> Path:
        directory = make(tmp_path / f"{name}-{seed}")
        tables = recipe()
        tables["run"] |= {"name": f"{name}-{seed}", "seed": seed}
        tables["scores"]["mmd"]["weight"] = weight
        (directory / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
        value = accuracy + 0.002 * source.normal()
        change(
            directory / "evaluation.json", lambda e: e["metrics"]["accuracy"].update(value=value)
        )
        resamples = pd.DataFrame({"accuracy": value + hard + source.normal(0, 0.003, 101)})
        resamples.to_csv(directory / "bootstrap.csv", index=False)
        return directory

    base = [made("plain", 0.25, seed, 0.7) for seed in (0, 1, 2)]
    better = [made("better", 0.5, seed, 0.8) for seed in (0, 1, 2)]
    page = compared(tmp_path, *base, *better)
    assert "Difference from plain-0 (seeds 0, 1, 2), paired by seed" in page.said
    # AUCs are the same in all runs.
    assert "adjusted for the number of differences shown, 1 (Holm)" in page.said
    assert "better-0 (seeds 0, 1, 2)" in page.said
    assert re.search(r"accuracy \+0\.099 \(\+0\.095 to \+0\.104\), p <0\.001, 3 seeds", page.said)
    assert "3 seeds" in page.text["mark"]
    alike = [made("alike", 0.75, seed, 0.7) for seed in (0, 1, 2)]
    page = compared(tmp_path, *base, *alike)
    assert "alike-0 (seeds 0, 1, 2)" in page.said
    assert "3 seeds" not in page.text["mark"]


def test_comparison_warns_of_runs_that_were_not_measured_alike(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    says = "These runs were measured with different protocols"
    assert says not in compared(tmp_path, *runs).said
    change(runs[1] / "environment.json", lambda e: e["dataset"].update(fingerprint="beef"))
    page = compared(tmp_path, *runs)
    assert says in page.said
    assert 'dataset.fingerprint "f00d" "beef"' in page.said


def test_pages_say_which_keys_an_evaluation_changed(
    runs: tuple[Path, Path], tmp_path: Path, report: Report
) -> None:
    changed = {"evaluation.protocol": "paper"}
    change(runs[1] / "evaluation.json", lambda e: e["protocol"].update(changed=changed))
    assert report(runs[1])[0] == 0
    says = "Measured with other options than the run's recipe: evaluation.protocol = paper."
    assert says in Page(runs[1] / "report.html").said
    page = compared(tmp_path, *runs)
    assert f'changed.evaluation.protocol {NONE} "paper"' in page.said


def test_comparison_draws_every_term_and_class_of_all_runs_and_escapes_names(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    predictions(runs[1], truth=[0, 0, 1, 1, 3, 3], predicted=[0, 1, 1, 1, 3, 3])
    page = compared(tmp_path, *runs)
    labels = [svg.get("aria-label") or "" for svg in page.all("svg")]
    assert "mmd over training, a line a run" in labels
    for name in CLASSES:  # the first run has no curve of the last, the second none of the third
        assert f"ROC and precision-recall curves of {name}" in labels
    assert "mmd weight 0.25, 0.5" in page.said
    assert len(page.all("script")) == 1
    assert HOSTILE not in page.text["script"]
    assert page.said.count(HOSTILE) >= 8
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    shown = [i["alt"] for i in page.all("img") if i["alt"]]
    assert "tiny generated images at step 1500" in shown
    assert f"{HOSTILE} generated images at step 1500" in shown


def test_runs_of_one_name_go_by_their_directories(tmp_path: Path) -> None:
    page = compared(tmp_path, make(tmp_path / "a" / "x"), make(tmp_path / "a" / "y"))
    assert re.search(r"2 runs compared Runs x .* y ", page.said)
    page = compared(tmp_path, make(tmp_path / "b" / "x"), tmp_path / "a" / "x")
    assert f"{tmp_path}/b/x" in page.text["title"]


def test_twelve_runs_are_told_apart(tmp_path: Path) -> None:
    page = compared(tmp_path, *(make(tmp_path / str(i)) for i in range(MOST_RUNS)))
    keys = [(s["stroke"], s.get("stroke-dasharray")) for s in page.all("line") if s["x2"] == "28"]
    assert len(set(keys)) == MOST_RUNS
