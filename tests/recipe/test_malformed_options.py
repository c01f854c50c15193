"""Options that are wrong: see test_malformed.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from malformed import WHOLE, contents, refused, without_change

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


# -- files and folders -----------------------------------------------------------------------------

#: no file or folder can be called so, whatever is to be done with it
PLACES: dict[str, tuple[str, str]] = {
    "not UTF-8": ("x\udce4", "is not UTF-8 text"),
    "a zero": ("x\0y", "zero byte"),
    "two lines": ("x\ny", "control character or a line break"),
    "an escape": ("x\x1b[2Jy", "control character or a line break"),
    "a separator of lines": ("x\u2028y", "control character or a line break"),
    "nothing": ("", "is empty"),
    "300 letters": ("z" * 300, "too long"),
    "100 letters of four bytes": ("\U00020000" * 100, "too long"),
    "5,000 letters": ("z" * 5000, "too long"),
    "5,000 letters of folders": ("q/" * 2500, "too long"),
}
#: command -> the words after which the place stands
COMMANDS: dict[str, tuple[str, ...]] = {
    "run --out": ("run", "recipe.toml", "--out"),
    "run --from": ("run", "recipe.toml", "--from"),
    "evaluate": ("evaluate",),
    "audit": ("audit",),
    "report": ("report",),
    "report --out": ("report", "run", "--out"),
    "figures --out": ("figures", "run", "--out"),
    "generate --out": ("generate", "run", "--count", "1", "--out"),
    "explain --out": ("explain", "run", "--out"),
    "export --out": ("export", "run", "--out"),
    "sweep --out": ("sweep", "table8", "--fast", "--out"),
    "recipes copy": ("recipes", "copy", "quickstart"),
    "new-plugin --out": ("new-plugin", "score", "my_score", "--out"),
    "data list --cache": ("data", "list", "--cache"),
    "data clear --cache": ("data", "clear", "--all", "--cache"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_is_none(
    command: str, place: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called, why = PLACES[place]
    (tmp_path / "recipe.toml").write_text(WHOLE)
    shutil.copytree(finished, tmp_path / "run")
    without_change(tmp_path, capsys, (why,), *COMMANDS[command], called)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml", "run"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["run", "check", "sweep", "data prepare"])
def test_a_recipe_that_is_none(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_change(tmp_path, capsys, (), *command.split(), PLACES[place][0])


@pytest.mark.parametrize("place", ["not UTF-8", "a zero", "5,000 letters"])
@pytest.mark.parametrize(
    "arguments",
    [("describe", "score"), ("list-plugins",), ("recipes", "copy"), ("data", "clear"), (),
     ("generate", "run", "--count", "1", "--out", "made", "--class"),
     ("generate", "run", "--count", "1", "--out", "made", "--metadata"),
     ("explain", "run", "--class"), ("sweep", "table8", "--preset")],
    ids=" ".join,
)  # fmt: skip
def test_a_word_that_is_none(
    arguments: tuple[str, ...], place: str, finished: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(finished, tmp_path / "run")
    without_change(tmp_path, capsys, (), *arguments, PLACES[place][0])
