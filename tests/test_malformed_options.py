"""Options that are wrong: see test_malformed.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_malformed import contents, refused

pytestmark = pytest.mark.usefixtures("in_a_folder")

OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no recipe": (("run",), ("RECIPE",)),
    "an unknown recipe": (("run", "ucgan_ful"), ("ucgan_full",)),
    "a folder as a recipe": (("run", "."), (".",)),
    "an unknown command": (("train", "quickstart"), ("train",)),
    "an unknown option": (("run", "quickstart", "--sett", "x"), ("--sett",)),
    "a set without a value": (("run", "quickstart", "--set", "run.steps"), ("TABLE.KEY=VALUE",)),
    "a set without a key": (("run", "quickstart", "--set", "=3"), ("TABLE.KEY=VALUE",)),
    "a set with a gap": (("run", "quickstart", "--set", "run..steps=3"), ("TABLE.KEY=VALUE",)),
    "a set of a table": (("run", "quickstart", "--set", "run=3"), ("[run]", "3")),
    "a set beneath a key": (("run", "quickstart", "--set", "run.steps.x=3"), ("[run]",)),
    "a set of an unknown key": (("run", "quickstart", "--set", "run.stps=3"), ("'steps'",)),
    "a set of the wrong type": (("run", "quickstart", "--set", "run.steps=ten"), ("'ten'",)),
    "a deep set": (("run", "quickstart", "--set", "run.steps=" + "[" * 5000), ("[run] steps",)),
    "no devices": (("run", "quickstart", "--devices", "0"), ("--devices",)),
    "devices in words": (("run", "quickstart", "--devices", "two"), ("--devices",)),
    "an output that is a file": (("run", "quickstart", "--out", "file"), ("file",)),
    "an output that is full": (("run", "quickstart", "--out", "full"), ("full", "--out")),
    "evaluating nothing": (("evaluate", "none"), ("none",)),
    "evaluating a folder": (("evaluate", "full"), ("full", "not a run directory")),
    "generating none": (("generate", "full", "--count", "0", "--out", "x"), ("--count",)),
    "generating nowhere": (("generate", "full", "--count", "1"), ("--out",)),
    "figures of nothing": (("figures", "full"), ("full",)),
    "describing nothing": (("describe", "score", "mdm"), ("'mmd'",)),
    "describing an unknown kind": (("describe", "scre", "mmd"), ("scre",)),
    "an unknown sweep": (("sweep", "table99"), ("table99",)),
    "an unknown preset": (("sweep", "table8", "--preset", "gpu"), ("preset", "gpu")),
    "no jobs": (("sweep", "table8", "--jobs", "0"), ("--jobs",)),
    "preparing nothing": (("data", "prepare", "none"), ("none",)),
    "checking nothing": (("check", "none"), ("none",)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_malformed_option(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = OPTIONS[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    said = refused(capsys, *arguments)
    for word in words:
        assert word in said, said
    assert contents(tmp_path) == before
