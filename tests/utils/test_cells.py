"""CSV files that a spreadsheet may open, and that are read again."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from saved_run import CLASSIFIER, DATA, gan, saved, xraygan

from xraygan import Run
from xraygan.data.tables import read_table
from xraygan.rundir.reader import RunFiles
from xraygan.utils.csv_cells import (
    as_csv,
    escape_formula,
    numbers,
    parse_csv,
    unescape_formula,
)

FORMULAS = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("x";"y")', "-", "-0x1"]
QUOTED = ["'=1", "''+A1", "'-0.5"]
PLAIN = [
    "",
    "a",
    "'",
    "O'Brien",
    "'a'",
    "-0.5",
    "+3",
    "1e-5",
    "-12",
    "a=b",
    " =1",
    "Mäßig",
    'a"b,c',
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_to_a_spreadsheet(text: str) -> None:
    assert escape_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", [*FORMULAS, *QUOTED, *PLAIN])
def test_every_text_is_read_as_it_was(text: str, tmp_path: Path) -> None:
    assert unescape_formula(escape_formula(text)) == text
    table = pd.DataFrame({"path": [text, "x"], text or "none": ["1", text]})
    written = as_csv(table)
    found = parse_csv(written)
    assert list(found) == list(table) and found.to_numpy().tolist() == table.to_numpy().tolist()
    if "\r" not in text:  # which ends a line of a user's table
        (tmp_path / "t.csv").write_text(written, newline="")
        assert list(read_table(tmp_path / "t.csv", ["path"])["path"]) == [text, "x"]


def test_numbers_stay_numbers() -> None:
    table = pd.DataFrame({"a": [-0.5, np.nan, 1e-7], "b": [-1, 2, 3], "c": [True, False, True]})
    assert as_csv(table) == "a,b,c\n-0.5,-1,True\n,2,False\n1e-07,3,True\n"
    found = numbers(parse_csv(as_csv(table)), "a", -1, 1)
    np.testing.assert_array_equal(found, table["a"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a user's own images, whose names, patients and classes are formulas."""
    folder = tmp_path_factory.mktemp("hostile")
    random = np.random.default_rng(0)
    lines = ["path,label,patient,split"]
    for i in range(24):
        name, label = f"={i}+1.png", ("=cmd", "-B2")[i % 2]
        Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / name)
        lines.append(f"{name},{label},@p{i},{'train' if i < 16 else 'test'}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    data = DATA.split("[data]")[0] + (
        f'[data]\nplugin = "csv"\nroot = "{folder}"\nimage_size = 32\n'
        'classes = ["-B2", "=cmd"]\n[metrics.auc]\n[evaluation]\ngenerated = 4\nbootstrap = 20\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saved_run.DATA", data)
        place = saved(folder.parent / "run", gan("cgan"), CLASSIFIER)
    return place


def rows(path: Path) -> list[list[str]]:
    return [*csv.reader(io.StringIO(path.read_text(), newline=""))]


def test_no_file_of_a_run_holds_a_formula(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xraygan(capsys, "evaluate", hostile)
    xraygan(capsys, "generate", hostile, "--count", "6", "--out", tmp_path / "made")
    paths = [*hostile.rglob("*.csv"), *tmp_path.rglob("*.csv")]
    assert {"predictions.csv", "bootstrap.csv", "generated.csv"} <= {path.name for path in paths}
    for path in paths:
        for cell in (cell for row in rows(path) for cell in row):
            assert not cell.startswith(("=", "+", "@", "\t", "\r", "-B")), (path, cell)
    assert rows(hostile / "predictions.csv")[1][:2] == ["'=16+1.png", "'@p16"]
    found = Run(hostile).predictions
    assert found["path"][0] == "=16+1.png" and found["patient"][0] == "@p16"
    assert [name for name, *_ in RunFiles(hostile).predictions or ()] == ["-B2", "=cmd"]


def test_the_csv_dataset_reads_what_generate_writes(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    xraygan(capsys, "generate", hostile, "--count", "24", "--out", made)
    (tmp_path / "recipe.toml").write_text(
        f'[run]\nsteps = 1\nbatch_size = 2\n[data]\nplugin = "csv"\nroot = "{made}"\n'
        'table = "generated.csv"\nsplit = ""\nlabel = ""\npatient = ""\n'
        'test_fraction = 0.5\nimage_size = 32\nfindings = ["condition:-B2", "condition:=cmd"]\n'
        'classes = ["condition:-B2", "condition:=cmd"]\n'
        '[classifier]\nplugin = "resnet18"\n'
    )
    said = xraygan(capsys, "data", "prepare", tmp_path / "recipe.toml")
    assert "24 images of 32 x 32" in said
