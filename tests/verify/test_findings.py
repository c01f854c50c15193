"""What a report says of cells and texts of another person's files."""

from __future__ import annotations

from pathlib import Path

from xraygan.verify.report import Report
from xraygan.verify.tables import compare_csv


def lines(report: Report) -> list[str]:
    return [finding.line() for finding in report.findings]


def test_cells_with_line_breaks_are_compared_by_position(tmp_path: Path) -> None:
    report = Report(tmp_path)
    there = 'row,metric,mean\n"a\nb",auc,1\nc,auc,2\n'
    compare_csv(report, tmp_path / "table.csv", there, "row,metric,mean\na,auc,1\nc,auc,3\n")
    assert lines(report) == [
        r"differs      table.csv: line 3, a\nb, auc, row: what its runs give: expected a, "
        r"found a\nb",
        "differs      table.csv: line 4, c, auc, mean: what its runs give: expected 3, found 2",
    ]
