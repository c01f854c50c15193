"""The report's tables of figures by age, sex and view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_run
import pytest
from test_report import Page

from xraygan.cli.printing import print_metrics
from xraygan.report.comparison import comparison
from xraygan.report.run_report import report, write_report
from xraygan.rundir.reader import RunFiles


def figure(value: float | None, n: int, note: str = "", interval: Any = None) -> dict[str, Any]:
    return {"value": value, "n": n, "note": note, "interval": interval}


FIGURES = {
    "images[sex=F]": figure(40, 100, "of 100 test images; 30 patients"),
    "images[sex=M]": figure(1500, 100, "of 100 test images; 20 patients"),
    "images[sex=unknown]": figure(7, 100, "their sex is unknown; 3 patients"),
    "auc/Effusion[sex=F]": figure(0.8125, 40, "12 positive images of 9 patients", [0.7, 0.9]),
    "auc/Effusion[sex=M]": figure(None, 50, "1 positive images of 1 patient, fewer than 5"),
    "auc/<b>[sex=F]": figure(0.5, 40),
    "auc_difference/Effusion[sex=F]": figure(-0.0625, 40, "descriptive", [-0.2, 0.1]),
    "images[age=unknown]": figure(100, 100, "the data set gives the age of no test image"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = made_run.make(tmp_path / "tiny")
    path = directory / "evaluation.json"
    content = json.loads(path.read_text())
    content["metrics"] |= FIGURES
    path.write_text(json.dumps(content))
    with (directory / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 1500, "evaluation": {"auc/Effusion[sex=F]": 0.5}}) + "\n")
    return directory


def test_the_tables_have_a_column_for_each_group_and_a_row_for_each_figure(run: Path) -> None:
    said = Page(write_report(run)).said
    section = said[said.index("By sex") : said.index("By age")]
    assert "All F 40 images, 30 patients M 1,500 images, 20 patients" in section
    assert "Unknown: 7 images, their sex is unknown; 3 patients." in section
    assert "AUC Effusion 0.910 0.880 to 0.940 0.812 0.700 to 0.900 12 positive images of" in section
    assert "1 positive images of 1 patient, fewer than 5" in section
    assert "AUC less that of the other groups Effusion" in section
    assert "-0.062 -0.200 to 0.100" in section
    by_age = said[said.index("By age") : said.index("By age") + 120]
    assert "Unknown: 100 images, the data set gives the age of no test image." in by_age


def test_they_are_not_among_the_metrics_of_all_patients_nor_drawn_over_training(run: Path) -> None:
    page = Page(write_report(run))
    assert "[sex=" not in page.said
    assert "<b>" in page.said and not page.all("b")
    sections = [attributes.get("id") for attributes in page.all("section")]
    assert sections.count("subgroups") == 1
    plain = made_run.make(run.parent / "plain")
    assert "subgroups" not in [a.get("id") for a in Page(write_report(plain)).all("section")]


def test_a_comparison_leaves_them_and_external_figures_to_the_runs_own_reports(run: Path) -> None:
    other = made_run.make(run.parent / "other")
    text = (run / "evaluation.json").read_text()
    (other / "evaluation-clinic.json").write_text(text.replace('"split": "test"', '"split": "x"'))
    page = comparison([RunFiles(run), RunFiles(other)])
    assert "[sex=" not in page and "clinic" not in page
    assert "Figures of subgroups are in the report of each run" in page
    assert "clinic" in report(RunFiles(other))


def test_the_terminal_counts_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics(run / "evaluation.json")
    out = capsys.readouterr().out
    assert "8 figures of subgroups are in evaluation.json and in report.html" in out
    assert "[sex=F]" not in out
