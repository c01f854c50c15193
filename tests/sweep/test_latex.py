"""The tables of a sweep in LaTeX, the heading of published figures, and the sweep's record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sweep import ONE, SMALL, drawn_runs, finished, written

from xraygan import UserError
from xraygan.sweep import load, write_tables
from xraygan.sweep.latex import escape_latex
from xraygan.sweep.record import read_record
from xraygan.sweep.results import collect_results
from xraygan.sweep.table import table_texts

#: the commands and active characters that escaped text may hold, and the text that they print
PRINTS = {
    r"\textbackslash{}": "\\", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\%": "%",
    r"\#": "#", r"\_": "_", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"\textasciigrave{}": "`",
    r"$\pm$": "±", r"$-$": "-", "{[}": "[", "{]}": "]", "{*}": "*", "-{}": "-",
}  # fmt: skip
LONGEST_FIRST = "|".join(map(re.escape, sorted(PRINTS, key=len, reverse=True)))
ANY = st.text(max_size=60) | st.text(r"\{}$&%#_~^<>|`[]*-±0a ", max_size=60)


@given(ANY)
def test_any_label_is_balanced_and_prints_as_itself(label: str) -> None:
    escaped = escape_latex(label)
    plain = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    assert re.sub(LONGEST_FIRST, lambda found: PRINTS[found[0]], escaped) == plain
    rest = re.sub(LONGEST_FIRST, "", escaped)
    assert not set(rest) & set(r"\{}$&%#_~^[]*") and "--" not in escaped
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", escaped):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0 and "\n" not in escaped


HOSTILE = r"50% & \input{x} #1_$^~ [!] <a>"


def hostile_sweep(folder: Path, **changes: object) -> tuple[str, list[str]]:
    """``table.tex`` of a sweep whose rows have names that LaTeX would take for commands."""
    variants = [{"name": HOSTILE}, {"name": "* plain"}]
    layout = {"metrics": ["accuracy", "auc/mean"], "baseline": "* plain"}
    layout["paper"] = {HOSTILE: [0.9, 0.95]}
    changes = {"grid": {}, "variants": variants, "seeds": [0, 1, 2], "table": layout} | changes
    sweep = load(written(folder / "small.toml", **changes))
    runs = drawn_runs(sweep, folder, effect=0.0, sd=0.0)
    for run in runs:
        run.run_dir.environment.write_text(
            json.dumps({"git": "abc123", "torch": "9.8.7", "dataset": {"fingerprint": "f00d"}})
        )
    write_tables(sweep, runs, folder, "xraygan sweep 'a\nb'")
    text = (folder / "table.tex").read_text()
    return text, text.splitlines()


def test_a_table_in_latex_has_rows_intervals_and_its_origin(tmp_path: Path) -> None:
    text, lines = hostile_sweep(tmp_path)
    for origin in ("revision: abc123", "torch: 9.8.7", "fingerprint of the data: f00d"):
        assert f"% - {origin}" in lines
    assert "% Command: xraygan sweep 'a b'" in lines
    tabular = [line for line in lines if line and not line.startswith("%")]
    assert all(line.startswith("\\begin{tabular}{lllll}") for line in tabular[:1])
    rows = [line for line in tabular if line.endswith(r" \\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) in (4, 2, 3) for row in rows)
    (row,) = [row for row in rows if row.startswith(r"50\% \& ")][:1]
    assert re.search(r" & 0\.\d{3} \$\\pm\$ 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) & 0\.9 & ", row)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2  # figures and differences
    assert "published, other test images" in rows[0]


def test_reduced_settings_are_named_in_latex(tmp_path: Path) -> None:
    sweep = load(written(tmp_path / "small.toml", **ONE), preset="fast")
    write_tables(sweep, finished(sweep, tmp_path), tmp_path, "")
    assert r"\textbf{Reduced settings, not a result}" in (tmp_path / "table.tex").read_text()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no TeX on this machine")
def test_tex_typesets_the_table(tmp_path: Path) -> None:
    hostile_sweep(tmp_path)
    page = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("rows", [1, 2])
def test_published_figures_are_headed_by_what_they_were_measured_on(
    rows: int, tmp_path: Path
) -> None:
    changes = (
        {}
        if rows == 2
        else {"grid": {}, "table": {**SMALL["table"], "paper": {"small": [0.9, 0.8]}}}
    )
    sweep = load(written(tmp_path / "small.toml", seeds=[0, 1, 2], **changes))
    write_tables(sweep, drawn_runs(sweep, tmp_path, 0.0, 0.01), tmp_path, "")
    for name, separator in (("table.md", "|"), ("table.tex", "&")):
        (head,) = [
            line for line in (tmp_path / name).read_text().splitlines() if "published" in line
        ]
        cells = [cell.strip(r" \|") for cell in head.split(separator)]
        assert cells.count("published, other test images") == rows
        assert "paper" not in head


# -- sweep.json ------------------------------------------------------------------------------------


def test_the_record_alone_makes_the_same_tables(tmp_path: Path) -> None:
    layout = {**SMALL["table"], "baseline": "0.0001", "paper": {"0.001": [0.9, float("nan")]}}
    folder = tmp_path / "out"
    folder.mkdir()
    path = written(tmp_path / "small.toml", seeds=[0, 1, 2], table=layout)
    sweep = load(path, ["data.images=80", f"data.cache={tmp_path}"])
    runs = drawn_runs(sweep, folder, effect=0.1, sd=0.01)
    failed = runs[-1]
    shutil.rmtree(failed.run_dir.path)
    failed.failure = "exit code 2: it had a fault"
    write_tables(sweep, runs, folder, "xraygan sweep small.toml")
    path.unlink()
    moved = folder.rename(tmp_path / "elsewhere")
    found = read_record(moved)
    results = collect_results(found.sweep, found.runs)
    texts = table_texts(found.sweep, results, found.runs, found.content.command)
    assert texts == {name: (moved / name).read_text() for name in texts} and len(texts) == 3
    assert str(tmp_path) not in (moved / "sweep.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": "all"}, "seeds: expected a valid list"),
        ({"rows": [{"label": "a"}]}, "rows.0.variant"),
        ({"table": {"metrics": []}}, "metrics"),
        ({"table": {"metrics": ["a"], "paper": {"small": [0.1, 0.2]}}}, "a figure for each metric"),
        ({"table": {"metrics": ["a"], "primary": "b"}}, "one of the metrics"),
    ],
)
def test_a_damaged_record_is_named(change: dict, message: str, tmp_path: Path) -> None:
    sweep = load(written(tmp_path / "small.toml", **ONE))
    write_tables(sweep, finished(sweep, tmp_path), tmp_path, "")
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"sweep\.json: .*{message}"):
        read_record(tmp_path)
